//! Several controllers: one writes.

use serde_json::json;

use super::{ACCOUNT, Controller, object, server, trust, wait_condition};
use crate::chart::installed;
use crate::support::kube::front::Front;
use crate::support::kube::{Cluster, GATEWAY, SYSTEM};
use crate::support::wait::until;

fn holder(cluster: &Cluster) -> Option<String> {
    let lease = cluster.get("coordination.k8s.io/v1", "Lease", Some(SYSTEM), "portcullis-leader")?;
    Some(lease["spec"]["holderIdentity"].as_str()?.to_owned())
}

/// Who wrote the heartbeat last.
fn beating(cluster: &Cluster) -> Option<String> {
    let lease = cluster.get("coordination.k8s.io/v1", "Lease", Some(GATEWAY), "portcullis-heartbeat")?;
    Some(lease["spec"]["holderIdentity"].as_str()?.to_owned())
}

#[test]
fn one_leads_and_another_takes_over_when_it_is_killed_and_at_once_when_it_is_stopped() {
    let cluster = installed();
    cluster.namespace("team", &[]);
    cluster.apply(&trust("corp"));
    let mut first = Controller::start(&cluster);
    first.wait_leading();
    let second = Controller::start(&cluster);
    let led_by = holder(&cluster).unwrap();
    until("a heartbeat", || (beating(&cluster)? == led_by).then_some(()));
    let ready = |controller: &Controller| controller.get("/readyz").status == 200;
    until("the second to know everything", || ready(&second).then_some(()));
    assert_eq!(second.metric("portcullis_leader"), 0.0);
    cluster.apply(&server("team", "a", &json!({})));
    wait_condition(&cluster, ("McpServer", Some("team"), "a"), ("Accepted", "True", "Accepted"));
    let looks = "portcullis_reconciles_total{kind=\"McpServer\",result=\"done\"}";
    // A look is counted once it has ended, which is after its status was written.
    until("the look to be counted", || (first.metric(looks) > 0.0).then_some(()));
    assert_eq!(second.metric(looks), 0.0, "it looks on");

    first.process.kill();
    assert_eq!(holder(&cluster).unwrap(), led_by, "the lease runs on");
    cluster.apply(&server("team", "b", &json!({})));
    second.wait_leading();
    wait_condition(&cluster, ("McpServer", Some("team"), "b"), ("Accepted", "True", "Accepted"));
    let now_led_by = holder(&cluster).unwrap();
    assert_ne!(now_led_by, led_by);
    // The lease was whole when the first one died: the API server's clock says how long nobody led.
    let lease = cluster.get("coordination.k8s.io/v1", "Lease", Some(SYSTEM), "portcullis-leader").unwrap();
    assert_eq!(lease["spec"]["leaseTransitions"], 2);
    assert_eq!(lease["spec"]["leaseDurationSeconds"], 15);

    // One that is told to stop gives the lease back.
    let third = Controller::start(&cluster);
    until("the third to know everything", || ready(&third).then_some(()));
    second.stop();
    third.wait_leading();
    assert_ne!(holder(&cluster).unwrap(), now_led_by);
    until("its heartbeat", || (beating(&cluster)? == holder(&cluster)?).then_some(()));
}

#[test]
fn who_was_overtaken_writes_nothing_more_and_ends() {
    let cluster = installed();
    cluster.namespace("team", &[]);
    cluster.apply(&trust("corp"));
    let mut first = Controller::start(&cluster);
    first.wait_leading();
    // It sleeps, as a machine under load might, until its lease is another's.
    first.process.signal("STOP");
    let second = Controller::start(&cluster);
    second.wait_leading();
    let led_by = holder(&cluster).unwrap();
    first.process.signal("CONT");
    cluster.apply(&server("team", "a", &json!({})));
    wait_condition(&cluster, ("McpServer", Some("team"), "a"), ("Accepted", "True", "Accepted"));
    let status = first.process.wait_exit();
    assert_eq!(status.code(), Some(1), "{}", first.process.stderr());
    assert!(first.process.stderr().contains("another controller holds it"), "{}", first.process.stderr());
    assert_eq!(holder(&cluster).unwrap(), led_by);
    until("the new leader's heart to beat", || (beating(&cluster) == Some(led_by.clone())).then_some(()));
    assert!(object(&cluster, "McpServer", Some("team"), "a").is_some());
}

#[test]
fn who_was_overtaken_does_not_repeat_what_the_api_server_put_off() {
    let cluster = installed();
    cluster.namespace("team", &[]);
    cluster.apply(&trust("corp"));
    let front = Front::start(&cluster, SYSTEM, ACCOUNT);
    let mut first = Controller::launch_as(front.kubeconfig(), &["--no-inventory"]);
    first.wait_leading();
    wait_condition(&cluster, ("McpAuthorizationServer", None, "corp"), ("Accepted", "True", "Accepted"));
    front.put_off_patches();
    let names = ["a", "b", "c", "d", "e", "f"];
    names.iter().for_each(|name| drop(cluster.apply(&server("team", name, &json!({})))));
    until("writes to be put off", || (front.put_off("") >= names.len()).then_some(()));
    // Nothing is sent again but by who asks whether it still leads.
    let given_up = "Lease portcullis-heartbeat: the API server answered 429";
    until("the heartbeat to be given up", || first.process.stderr().contains(given_up).then_some(()));
    assert_eq!(front.put_off("/portcullis-heartbeat"), 1);
    first.process.signal("STOP");
    let second = Controller::start(&cluster);
    second.wait_leading();
    for name in names {
        wait_condition(&cluster, ("McpServer", Some("team"), name), ("Accepted", "True", "Accepted"));
    }
    let written = front.patches();
    first.process.signal("CONT");
    let status = first.process.wait_exit();
    assert_eq!(status.code(), Some(1), "{}", first.process.stderr());
    // One that was on its way to its connection when it fell asleep is not taken back; all the others are due by now.
    assert!(front.patches() <= written + 1, "it wrote when another led");
}

#[test]
fn while_the_api_server_is_away_the_leader_ends_and_a_new_process_waits_for_it_and_heals() {
    let mut cluster = installed();
    cluster.namespace("team", &[]);
    cluster.apply(&trust("corp"));
    cluster.apply(&server("team", "a", &json!({})));
    let mut first = Controller::start(&cluster);
    wait_condition(&cluster, ("McpServer", Some("team"), "a"), ("Accepted", "True", "Accepted"));
    let second = Controller::start(&cluster);
    until("the second to know everything", || (second.get("/readyz").status == 200).then_some(()));
    cluster.stop();
    let status = first.process.wait_exit();
    assert_eq!(status.code(), Some(1), "{}", first.process.stderr());
    // One that begins now, as Kubernetes would restart it, is alive and not ready.
    let third = Controller::launch(&cluster, &["--no-inventory"]);
    assert_eq!((third.get("/livez").status, third.get("/readyz").status), (200, 503));
    assert_eq!(second.get("/livez").status, 200, "{}", second.process.stderr());
    cluster.start();
    until("one of them to lead", || {
        let leading = [&second, &third].map(|one| one.metric("portcullis_leader"));
        (leading.iter().sum::<f64>() > 0.0).then_some(())
    });
    until("the other to know everything", || {
        [&second, &third].iter().all(|one| one.get("/readyz").status == 200).then_some(())
    });
    cluster.apply(&server("team", "b", &json!({})));
    wait_condition(&cluster, ("McpServer", Some("team"), "b"), ("Accepted", "True", "Accepted"));
    cluster.delete(super::VERSION, "McpServer", Some("team"), "a");
    until("what was made of the other to go", || {
        let names: Vec<String> = super::generated(&cluster).into_keys().collect();
        (names.iter().filter(|name| name.starts_with("server-")).count() == 1).then_some(())
    });
}
