//! The API server, the controller or the network is away.

use portcullis::generated::codec::Generated;

use super::house::House;
use crate::support::wait::until;

/// Long enough for calls to be seen to go on, short enough to wait for.
const SOON: [&str; 2] = ["--max-staleness", "10s"];

pub(super) fn wait_stale(house: &House, token: &str) {
    house.wait_denied(token);
    until("the reason to be shown", || {
        let (ready, report) = house.readyz();
        (!ready && report["checks"]["configuration"]["reason"] == "ConfigurationStale").then_some(())
    });
}

#[test]
fn calls_go_on_while_the_api_server_is_away_until_the_configuration_is_too_old() {
    let mut house = House::serve(&SOON);
    let ana = house.token("ana");
    assert!(house.is_allowed(&ana) && house.metric("configuration_staleness_seconds") <= 10);
    house.cluster.stop();
    until("the staleness to rise", || {
        let age = house.metric("configuration_staleness_seconds");
        // Asked before and after, so that what lies between is known.
        let allowed = house.is_allowed(&ana);
        (age >= 2 && allowed && house.metric("configuration_staleness_seconds") < 10).then_some(())
    });
    wait_stale(&house, &ana);
    assert!(house.metric("configuration_staleness_seconds") >= 10);
    house.cluster.start();
    house.wait_allowed(&ana);
    house.wait_ready();
    // What happens from now on is seen.
    house.remove(&Generated::Policy(house.policy.clone()));
    house.wait_denied(&ana);
}

/// As long as an upgrade of a small control plane takes. Before it is too old, what is known is served.
#[test]
fn calls_go_on_while_the_api_server_is_away_for_two_minutes() {
    let mut house = House::serve(&["--max-staleness", "5m"]);
    let ana = house.token("ana");
    house.cluster.stop();
    let mut before = 0;
    for age in [30, 60, 90, 120] {
        until("the staleness to rise", || {
            assert!(house.is_allowed(&ana), "after {before} s");
            // Others have the processors meanwhile.
            std::thread::sleep(std::time::Duration::from_millis(250));
            before = house.metric("configuration_staleness_seconds");
            (before >= age).then_some(())
        });
    }
    house.cluster.start();
    until("the staleness to fall", || (house.metric("configuration_staleness_seconds") < 10).then_some(()));
    assert!(house.is_allowed(&ana));
    house.remove(&Generated::Policy(house.policy.clone()));
    house.wait_denied(&ana);
}

#[test]
fn a_dead_controller_is_noticed_and_reported_and_its_return_heals() {
    let mut house = House::serve(&SOON);
    let ana = house.token("ana");
    house.stop_beating();
    wait_stale(&house, &ana);
    house.wait_report("staleness", |report| report.stale);
    house.beat();
    house.wait_allowed(&ana);
    house.wait_report("its end", |report| !report.stale);
    house.wait_ready();
}

#[test]
fn a_proxy_that_nobody_answers_denies_and_heals() {
    let house = House::serve(&SOON);
    let ana = house.token("ana");
    assert!(house.is_allowed(&ana));
    house.cluster.freeze(true);
    wait_stale(&house, &ana);
    house.cluster.freeze(false);
    house.wait_allowed(&ana);
}

#[test]
fn an_old_heartbeat_is_believed_to_be_old_at_the_start_and_one_of_the_future_ages() {
    let mut house = House::build();
    house.stop_beating();
    let now = jiff::Timestamp::now();
    house.beat_at(now - jiff::SignedDuration::from_hours(2));
    house.start(&[]);
    let ana = house.token("ana");
    wait_stale(&house, &ana);
    house.beat_at(now);
    house.wait_allowed(&ana);
    // A controller whose clock is ahead is not alive for longer.
    house.kill();
    house.start(&SOON);
    let ahead = now + jiff::SignedDuration::from_hours(2);
    let mut beats = 0;
    until("a call to be allowed", || {
        beats += 1;
        house.beat_at(ahead + jiff::SignedDuration::from_millis(beats));
        house.is_allowed(&ana).then_some(())
    });
    wait_stale(&house, &ana);
}
