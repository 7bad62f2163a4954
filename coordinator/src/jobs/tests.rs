//! Whatever happens in whatever order, one holder at a time, and every job ends.

use proptest::prelude::*;

use super::*;
use crate::store::DerivationKey;

fn job() -> JobRecord {
    JobRecord::new(Work::Train(DerivationKey::of(&1).unwrap()), "fashion", 0)
}

fn worker(name: &str) -> DeviceId {
    name.parse().unwrap()
}

#[test]
fn a_job_that_ends_its_workers_is_given_up_with_its_reason() {
    let mut job = job();
    for _ in 0..TRIES {
        let lease = job.lease(&worker("w"), 0).unwrap();
        job.lost(lease, "it ended with signal 9", 0);
    }
    let reason = job.failure().unwrap();
    assert_eq!(
        reason,
        "it was tried 3 times and ended its worker each time; the last time, it ended with signal 9"
    );
    assert_eq!(job.lease(&worker("w"), 0), None);
}

#[test]
fn who_had_a_job_last_is_known_after_its_end() {
    let mut job = job();
    assert_eq!(job.worker, None);
    let lease = job.lease(&worker("a"), 0).unwrap();
    job.lost(lease, "it ended", 0);
    let lease = job.lease(&worker("b"), 0).unwrap();
    assert!(job.done(lease, None, 0));
    assert_eq!(job.worker, Some(worker("b")));
}

#[test]
fn a_job_whose_files_cannot_be_had_is_given_up_with_the_reason() {
    let mut job = job();
    for _ in 0..TRIES {
        assert!(job.is_open());
        let lease = job.lease(&worker("w"), 0).unwrap();
        assert!(job.release(lease, (Duration::ZERO, Some("the disk is broken")), 0));
    }
    let expected = "it was tried 3 times in vain; the last time, the disk is broken";
    assert_eq!(job.failure().as_deref(), Some(expected));
}

#[test]
fn one_that_gets_on_is_never_given_up_for_its_workers() {
    let mut job = job();
    for _ in 0..10 * TRIES {
        let lease = job.lease(&worker("w"), 0).unwrap();
        assert!(job.got_on(lease, 0));
        job.lost(lease, "it ended with signal 9", 0);
    }
    assert!(job.is_open());
}

#[test]
fn a_failure_is_tried_again_for_whoever_was_not_told_of_it() {
    let mut job = job();
    let asker = |generation| Some(("fashion", Generation(generation)));
    job.ask(asker(1), 0);
    let lease = job.lease(&worker("w"), 0).unwrap();
    assert!(job.fail(lease, "no such file".to_owned(), 0));
    job.ask(asker(1), 0);
    assert_eq!(job.failure().as_deref(), Some("no such file"));
    job.ask(asker(2), 0);
    assert!(job.is_open());
    assert!(job.cancel("ann", 0));
    job.ask(asker(2), 0);
    assert_eq!(job.failure().as_deref(), Some(format!("ann cancelled {}", job.name).as_str()));
    job.ask(None, 0);
    assert!(job.is_open(), "an operator who plans asks anew");
    job.drop_unwanted(0);
    job.ask(asker(2), 0);
    assert!(job.is_open(), "what nobody wanted did not fail");
}

#[test]
fn a_lease_holds_as_long_as_its_holder_is_heard_of() {
    let mut job = job();
    let lease = job.lease(&worker("w"), 0).unwrap();
    let end = u64::try_from(LEASE.as_millis()).unwrap();
    assert!(!job.is_due(end / 2 - 1) && job.is_due(end / 2 + 1));
    assert!(job.renew(lease, end - 1));
    job.expire(end);
    assert!(job.is_held(lease));
    job.expire(2 * end - 1);
    assert!(!job.is_held(lease) && job.is_open() && !job.renew(lease, 2 * end));
    assert!(job.release(job.leases, (LEASE, None), 0) || job.lease(&worker("v"), 0).is_none());
    let lease = job.lease(&worker("v"), 2 * end).unwrap();
    assert!(job.release(lease, (LEASE, None), 2 * end));
    assert_eq!(job.lease(&worker("v"), 2 * end), None, "not before the pause is over");
    assert!(job.lease(&worker("v"), 3 * end).is_some());
}

#[test]
fn a_clock_that_goes_back_holds_nothing_up() {
    let day = 86_400_000;
    let mut job = JobRecord::new(Work::Train(DerivationKey::of(&1).unwrap()), "fashion", day);
    assert!(job.is_waiting(0), "it was queued by the clock of tomorrow");
    let lease = job.lease(&worker("w"), day).unwrap();
    assert!(job.is_due(0) && job.is_expired(0));
    job.expire(0);
    assert!(job.is_held(lease) && job.tries == 0, "its holder has as long as any to be heard of");
    let later = u64::try_from(LEASE.as_millis()).unwrap();
    job.expire(later);
    let lease = job.lease(&worker("w"), later).unwrap();
    assert!(job.release(lease, (Duration::MAX, None), 0));
    assert!(job.is_waiting(u64::try_from(LONGEST_PAUSE.as_millis()).unwrap()));
}

#[derive(Debug, Clone)]
enum Event {
    Lease,
    Renew(u64),
    GotOn(u64),
    Lost(u64),
    Done(u64),
    Fail(u64),
    Release(u64),
    Cancel,
    Unwanted,
    Ask(u64),
    Pass(u64),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        Just(Event::Lease),
        Just(Event::Lease),
        Just(Event::Lease),
        (1u64..8).prop_map(Event::Renew),
        (1u64..8).prop_map(Event::GotOn),
        (1u64..8).prop_map(Event::Lost),
        (1u64..8).prop_map(Event::Done),
        (1u64..8).prop_map(Event::Fail),
        (1u64..8).prop_map(Event::Release),
        Just(Event::Cancel),
        Just(Event::Unwanted),
        (1u64..4).prop_map(Event::Ask),
        (0u64..60_000).prop_map(Event::Pass),
    ]
}

proptest! {
    #[test]
    fn only_the_holder_of_the_newest_lease_is_heard(events in proptest::collection::vec(event(), 0..60)) {
        let (mut job, mut now) = (job(), 0u64);
        for event in events {
            // A restart reads the record again, and clocks may go back.
            let json = serde_json::to_string(&job).unwrap();
            job = serde_json::from_str(&json).unwrap();
            let (was, holder) = (job.clone(), match job.state { JobState::Leased { lease, .. } => Some(lease), _ => None });
            let heard = match event {
                Event::Lease => { if let Some(lease) = job.lease(&worker("w"), now) {
                    prop_assert!(holder.is_none() && lease > was.leases);
                } continue },
                Event::Cancel => { prop_assert_eq!(job.cancel("ann", now), was.is_open()); continue }
                Event::Unwanted => { job.drop_unwanted(now); prop_assert!(!job.is_open()); continue }
                Event::Ask(generation) => { job.ask(Some(("fashion", Generation(generation))), now);
                    prop_assert!(!was.is_open() || job.state == was.state); continue }
                Event::Pass(time) => { now = if time % 7 == 0 { now.saturating_sub(time) } else { now + time }; job.expire(now);
                    prop_assert!(job.tries <= TRIES); continue }
                Event::Renew(lease) => (lease, job.renew(lease, now)),
                Event::GotOn(lease) => (lease, job.got_on(lease, now)),
                Event::Done(lease) => (lease, job.done(lease, None, now)),
                Event::Fail(lease) => (lease, job.fail(lease, "no".to_owned(), now)),
                Event::Release(lease) => (lease, job.release(lease, (Duration::ZERO, None), now)),
                Event::Lost(lease) => { job.lost(lease, "gone", now); (lease, holder == Some(lease)) }
            };
            prop_assert_eq!(heard.1, holder == Some(heard.0));
            if !heard.1 { prop_assert_eq!(&job, &was); }
            prop_assert!(job.tries <= TRIES);
        }
        // Left to workers that die, it ends.
        for _ in 0..TRIES + 1 {
            job.expire(u64::MAX);
            if let Some(lease) = job.lease(&worker("w"), u64::MAX) { job.lost(lease, "gone", u64::MAX); }
        }
        prop_assert!(!job.is_open());
    }
}
