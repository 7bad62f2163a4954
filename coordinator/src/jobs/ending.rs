//! What became of a job whose worker is lost, or says how it ended, told: in the job's own log, and in the audit log where the job
//! was given up.

use super::TRIES;
use super::log::JobLogs;
use crate::audit::{COORDINATOR, Event};
use crate::causes::chain;
use crate::clock::unix_ms;
use crate::store::{JobRecord, JobState, Store, StoreError};

/// The job has just come to what it is now, of which that is said. It has come to it, whether or not that can be written.
pub(crate) fn note(store: &dyn Store, logs: &JobLogs, job: &JobRecord, said: &str) {
    let reason = match &job.state {
        JobState::Failed { reason } => Some(reason),
        _ => None,
    };
    let given_up =
        reason.filter(|reason| !said.ends_with(*reason)).map(|reason| format!("given up: {reason}"));
    logs.add(&job.name, [said].into_iter().chain(given_up.as_deref()));
    let Some(reason) = reason else { return };
    let event = Event::new(COORDINATOR, "fail", format!("job/{}", job.name));
    if let Err(error) = store.append_audit(&[event.changed("", reason)], unix_ms()) {
        tracing::error!(
            job = job.name,
            error = chain(&error),
            "the audit log lacks that the job was given up"
        );
    }
}

/// Has `change` take the job from its worker, if it does, and says why.
pub(crate) fn lose(
    store: &dyn Store,
    logs: &JobLogs,
    name: &str,
    why: &str,
    change: impl Fn(&mut JobRecord),
) -> Result<JobRecord, StoreError> {
    let mut is_lost = false;
    let job = store.update_job(name, &mut |job| {
        let before = job.tries;
        change(job);
        is_lost = job.tries > before;
    })?;
    if is_lost {
        tracing::warn!(job = name, why, tries = job.tries, "its worker is lost");
        let said = format!("its worker is lost: {why} (loss {} of {TRIES} in a row)", job.tries);
        note(store, logs, &job, &said);
    }
    Ok(job)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jobs::{offer, queue};
    use crate::store::audit::AuditQuery;
    use crate::store::{DerivationKey, SledStore, Work};

    #[test]
    fn a_job_that_loses_its_workers_says_why_and_that_it_is_given_up() {
        let folder = tempfile::tempdir().unwrap();
        let store = SledStore::open(&folder.path().join("store")).unwrap();
        let logs = JobLogs::open(folder.path().join("logs"), |_| true).unwrap();
        let work = Work::Train(DerivationKey::of(&1).unwrap());
        let name = work.name();
        store.register_job(&name, &mut |_| JobRecord::new(work.clone(), "d", unix_ms())).unwrap();
        for _ in 0..TRIES {
            queue::lease(&store, &name, &"gpu-1".parse().unwrap()).unwrap().unwrap();
            let silent = store.update_job(&name, &mut |job| {
                if let JobState::Leased { until_unix_ms, .. } = &mut job.state {
                    *until_unix_ms = 1;
                }
            });
            offer::current(&store, &logs, &silent.unwrap()).unwrap();
        }
        let (text, _) = logs.read(&name, 0).unwrap();
        let said: Vec<&str> = text.lines().map(|line| line.split_once(' ').unwrap().1).collect();
        let why = "worker gpu-1 was not heard of for 30 s";
        let given_up = format!("it was tried 3 times and ended its worker each time; the last time, {why}");
        let lost = |n: u32| format!("its worker is lost: {why} (loss {n} of 3 in a row)");
        assert_eq!(said, [lost(1), lost(2), lost(3), format!("given up: {given_up}")]);
        let entries = store.audit(&AuditQuery { most: 9, ..AuditQuery::default() }).unwrap();
        let last = entries.last().unwrap();
        let subject = format!("job/{name}");
        assert_eq!(entries.len(), 1, "{entries:?}");
        assert_eq!(
            (last.action.as_str(), last.subject.as_str(), last.after.as_str()),
            ("fail", &*subject, &*given_up)
        );
    }
}
