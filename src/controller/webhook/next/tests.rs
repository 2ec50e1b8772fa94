use super::*;

/// How long an API server may not have heard of what it was told.
const HEARS: i64 = 20;
/// How long a Pod may not have the certificate that was made for it.
const MOUNTS: i64 = DAY;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Authority {
    id: u32,
    validity: Validity,
    signs: bool,
}

#[derive(Clone, Copy, Debug)]
struct Certificate {
    validity: Validity,
    by: u32,
    replaced_at: Option<i64>,
}

/// A cluster, as far as it matters here.
#[derive(Default)]
struct World {
    now: i64,
    made: u32,
    newest: Option<Authority>,
    previous: Option<Authority>,
    retired_at: Option<i64>,
    /// Every one that a Pod could be serving; the last is the one in the Secret.
    leaves: Vec<Certificate>,
    /// Of what callers were told, and when.
    told: Vec<(i64, Vec<u32>)>,
    believed_since: Option<(u32, i64)>,
    actions: usize,
}

impl World {
    fn bundle(&self) -> Vec<u32> {
        [self.newest, self.previous].into_iter().flatten().map(|authority| authority.id).collect()
    }

    fn observed(&mut self) -> Observed {
        let told = self.told.last().map(|(_, ids)| ids.clone()).unwrap_or_default();
        let held = |authority: Option<Authority>| {
            authority.map(|one| Held { validity: one.validity, signs: one.signs, believed: told.contains(&one.id) })
        };
        let (newest, previous) = (held(self.newest), held(self.previous));
        let id = self.newest.filter(|_| newest.is_some_and(|held| held.believed)).map(|one| one.id);
        self.believed_since = id.map(|id| match self.believed_since {
            Some((before, since)) if before == id => (id, since),
            _ => (id, self.now),
        });
        let which = |by: u32| match (self.newest, self.previous) {
            (Some(one), _) if one.id == by => Some(Which::Newest),
            (_, Some(one)) if one.id == by => Some(Which::Previous),
            _ => None,
        };
        let leaf = self.leaves.last().filter(|leaf| leaf.replaced_at.is_none());
        Observed {
            key: true,
            foreign: false,
            newest,
            previous,
            retired_at: self.retired_at,
            leaf: leaf.and_then(|leaf| Some(Leaf { validity: leaf.validity, by: which(leaf.by)? })),
            told: told == self.bundle(),
            believed_for: self.believed_since.map_or(0, |(_, since)| self.now - since),
        }
    }

    fn act(&mut self, action: Action) {
        let now = self.now;
        let holds = |long: i64| Validity { not_before: now - SKEW, not_after: now + long };
        match action {
            Action::Nothing => return,
            Action::Hide => panic!("there is one"),
            Action::Found => {
                self.made += 1;
                let authority = Authority { id: self.made, validity: holds(AUTHORITY), signs: true };
                let (newest, previous) = (self.newest.replace(authority), self.previous);
                let served = |one: &Authority| self.leaves.last().is_some_and(|leaf| leaf.by == one.id);
                self.previous = previous.filter(served).or(newest).or(previous);
                self.retired_at = None;
            }
            Action::Tell => self.told.push((now, self.bundle())),
            Action::Issue(which) => {
                let by = match which {
                    Which::Newest => self.newest,
                    Which::Previous => self.previous,
                };
                let by = by.filter(|authority| authority.signs).unwrap().id;
                if let Some(leaf) = self.leaves.last_mut() {
                    leaf.replaced_at.get_or_insert(now);
                }
                self.leaves.push(Certificate { validity: holds(LEAF), by, replaced_at: None });
            }
            Action::Retire => {
                self.previous.as_mut().unwrap().signs = false;
                self.retired_at = Some(now);
            }
            Action::Forget => (self.previous, self.retired_at) = (None, None),
        }
        self.actions += 1;
    }

    /// Does what is to be done until nothing is, unless callers cannot be told.
    fn settle(&mut self, mute: bool) {
        for _ in 0..8 {
            let seen = self.observed();
            match next(&seen, self.now) {
                Action::Nothing => return,
                Action::Tell if mute => return,
                action => self.act(action),
            }
        }
        panic!("it does not come to rest: {:?}", self.observed());
    }

    /// Every certificate that could be served is believed by every caller.
    fn check(&mut self) {
        let now = self.now;
        self.leaves.retain(|leaf| leaf.replaced_at.is_none_or(|at| now < at + MOUNTS));
        // Callers may be at any point between what they were told a while ago and what they were told last.
        let first = self.told.iter().rposition(|(at, _)| *at <= now - HEARS).unwrap_or(0);
        for leaf in &self.leaves {
            assert!(leaf.validity.holds(now), "{leaf:?} at {now}");
            for (at, believed) in &self.told[first..] {
                assert!(believed.contains(&leaf.by), "{leaf:?} at {now}: callers were told {believed:?} at {at}");
            }
        }
    }
}

/// A small generator of numbers (Knuth's MMIX), so that each run is the same.
struct Dice(u64);

impl Dice {
    fn below(&mut self, most: i64) -> i64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33).cast_signed() % most
    }
}

#[test]
fn over_years_every_certificate_that_could_be_served_is_believed() {
    for seed in 0..40 {
        let (mut world, mut dice) = (World::default(), Dice(seed));
        world.now = 1_800_000_000;
        world.settle(false);
        let begin = world.now;
        let mut mute_until = 0;
        while world.now < begin + 3 * AUTHORITY {
            // Looks come every few seconds while a controller leads, which it does not always.
            world.now += match dice.below(50) {
                0 => dice.below(DAY),
                1..10 => dice.below(6 * 3_600),
                _ => 1 + dice.below(1_800),
            };
            if dice.below(400) == 0 {
                mute_until = world.now + dice.below(DAY);
            }
            if dice.below(200) == 0 {
                // Another controller leads, which saw nothing of what was before.
                world.believed_since = None;
            }
            world.check();
            world.settle(world.now < mute_until);
            world.check();
        }
        // A leaf each 4.7 days at least, and each authority comes and goes with a handful of writes.
        let most = usize::try_from(3 * AUTHORITY / (LEAF / 2)).unwrap() + 5 * 12;
        assert!(world.actions < most && world.made >= 4, "{} actions, {} authorities", world.actions, world.made);
    }
}

/// All authorities, certificates and callers that there could be, however they came to be so.
fn every_state(now: i64, each: &mut dyn FnMut(World)) {
    let spans = [(-10 * DAY, AUTHORITY), (-300 * DAY, 65 * DAY), (-400 * DAY, -DAY), (DAY, 300 * DAY)];
    let mut authorities = vec![None];
    for (from, to) in spans {
        let validity = Validity { not_before: now + from, not_after: now + to };
        authorities.extend([true, false].map(|signs| Some(Authority { id: 0, validity, signs })));
    }
    let leaves = [(-DAY, 6 * DAY), (-6 * DAY, DAY), (-8 * DAY, -DAY), (DAY, 2 * DAY)];
    for newest in &authorities {
        for previous in &authorities {
            for retired_at in [None, Some(now - DAY), Some(now - 8 * DAY), Some(now + DAY)] {
                for leaf in leaves.iter().map(Some).chain([None]) {
                    for by in 0..3 {
                        for told in [vec![], vec![1], vec![2], vec![2, 1], vec![3]] {
                            let mut world = World { now, made: 3, retired_at, ..World::default() };
                            world.newest = newest.map(|one| Authority { id: 2, ..one });
                            world.previous = previous.map(|one| Authority { id: 1, ..one });
                            world.told.push((0, told));
                            let leaf = leaf.map(|(from, to)| Certificate {
                                validity: Validity { not_before: now + from, not_after: now + to },
                                by,
                                replaced_at: None,
                            });
                            world.leaves.extend(leaf);
                            each(world);
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn from_whatever_state_it_comes_to_rest_and_what_is_served_then_is_believed() {
    let mut states = 0;
    every_state(1_800_000_000, &mut |mut world| {
        world.settle(false);
        // After a moment there is a certificate that callers believe.
        world.now += SETTLE + HEARS;
        world.settle(false);
        let leaf = *world.leaves.last().unwrap();
        let told = &world.told.last().unwrap().1;
        assert!(leaf.validity.holds(world.now) && told.contains(&leaf.by), "{leaf:?} {told:?}");
        assert_eq!(*told, world.bundle());
        // And later there is one authority, and nothing is done until time has passed.
        for _ in 0..20 {
            world.now += DAY;
            world.settle(false);
            let seen = world.observed();
            assert_eq!(next(&seen, world.now), Action::Nothing);
        }
        assert!(world.previous.is_none() && world.bundle().len() == 1, "{:?} {:?}", world.previous, world.retired_at);
        states += 1;
    });
    assert!(states > 20_000, "{states}");
}

#[test]
fn nothing_is_done_twice_at_the_first_start() {
    let mut world = World { now: 1_800_000_000, ..World::default() };
    let mut done = Vec::new();
    loop {
        let seen = world.observed();
        match next(&seen, world.now) {
            Action::Nothing => break,
            action => {
                done.push(action);
                world.act(action);
            }
        }
    }
    assert_eq!(done, [Action::Found, Action::Tell, Action::Issue(Which::Newest)]);
}

#[test]
fn a_key_comes_first_and_paths_are_told_whoever_makes_certificates() {
    let now = 1_800_000_000;
    for foreign in [true, false] {
        let bare = Observed { foreign, told: true, ..Observed::default() };
        assert_eq!(next(&bare, now), Action::Hide);
    }
    let foreign = Observed { key: true, foreign: true, ..Observed::default() };
    assert_eq!(next(&foreign, now), Action::Tell);
    // No authority of ours is made there.
    assert_eq!(next(&Observed { told: true, ..foreign }, now), Action::Nothing);
    assert_eq!(next(&Observed { key: true, ..Observed::default() }, now), Action::Found);
}

#[test]
fn another_path_is_told_at_once_and_nothing_else_is_done() {
    let mut world = World { now: 1_800_000_000, ..World::default() };
    world.settle(false);
    world.now += SETTLE + 1;
    let seen = Observed { told: false, ..world.observed() };
    assert_eq!(next(&seen, world.now), Action::Tell);
    assert_eq!(next(&Observed { told: true, ..seen }, world.now), Action::Nothing);
}
