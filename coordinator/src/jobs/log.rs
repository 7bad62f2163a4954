//! What workers said of their jobs, a file for each. Bounded, and not on the disk before the kernel likes: a log, no record.

use std::fs::{self, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::PathBuf;
use std::time::SystemTime;

/// A longer file loses its first half.
const LONGEST: u64 = 1 << 20;
/// A longer line is cut.
const LONGEST_LINE: usize = 4 << 10;

/// The folder of the logs. Calls block on the disk.
#[derive(Debug, Clone)]
pub(crate) struct JobLogs {
    folder: PathBuf,
}

impl JobLogs {
    /// Those in `folder`, which is made if it is not there. Removes those of jobs that are not known any more.
    pub(crate) fn open(folder: impl Into<PathBuf>, is_known: impl Fn(&str) -> bool) -> io::Result<Self> {
        let folder = folder.into();
        fs::create_dir_all(&folder)?;
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if !name.strip_suffix(".log").is_some_and(&is_known) {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(Self { folder })
    }

    /// Adds lines, each with the time. A log that cannot be written costs lines, never a job.
    pub(crate) fn add<'a>(&self, job: &str, lines: impl IntoIterator<Item = &'a str>) {
        if let Err(error) = self.try_add(job, lines) {
            tracing::warn!(job, %error, "a job's log cannot be written");
        }
    }

    fn try_add<'a>(&self, job: &str, lines: impl IntoIterator<Item = &'a str>) -> io::Result<()> {
        let now = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
        let mut text = String::new();
        for line in lines.into_iter().flat_map(str::lines) {
            let end = line.floor_char_boundary(LONGEST_LINE);
            text.extend([&now, " ", &line[..end], "\n"]);
        }
        if text.is_empty() {
            return Ok(());
        }
        let path = self.path(job);
        if fs::metadata(&path).is_ok_and(|log| log.len() > LONGEST) {
            let whole = fs::read(&path)?;
            let half = &whole[whole.len() / 2..];
            let begin = half.iter().position(|&byte| byte == b'\n').map_or(half.len(), |at| at + 1);
            fs::write(&path, &half[begin..])?;
        }
        OpenOptions::new().create(true).append(true).open(&path)?.write_all(text.as_bytes())
    }

    /// What is in the log from `offset` on, and where it ends. Of a log that has become shorter, all.
    pub(crate) fn read(&self, job: &str, offset: u64) -> io::Result<(String, u64)> {
        let mut file = match fs::File::open(self.path(job)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((String::new(), 0)),
            Err(error) => return Err(error),
        };
        let length = file.metadata()?.len();
        let begin = if offset > length { 0 } else { offset };
        file.seek(SeekFrom::Start(begin))?;
        let mut text = Vec::new();
        file.take(2 * LONGEST).read_to_end(&mut text)?;
        let end = begin + text.len() as u64;
        Ok((String::from_utf8_lossy(&text).into_owned(), end))
    }

    fn path(&self, job: &str) -> PathBuf {
        self.folder.join(format!("{job}.log"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_kept_up_to_a_length_and_read_from_anywhere() {
        let folder = tempfile::tempdir().unwrap();
        let logs = JobLogs::open(folder.path(), |_| true).unwrap();
        assert_eq!(logs.read("train-1", 0).unwrap(), (String::new(), 0));
        logs.add("train-1", ["epoch 1/2", "two\nlines"]);
        let (text, end) = logs.read("train-1", 0).unwrap();
        let said: Vec<&str> = text.lines().map(|line| line.split_once(' ').unwrap().1).collect();
        assert_eq!(said, ["epoch 1/2", "two", "lines"]);
        assert_eq!(end, text.len() as u64);
        assert_eq!(logs.read("train-1", end).unwrap(), (String::new(), end));
        assert_eq!(logs.read("train-1", end + 1).unwrap().0, text, "it was shortened");
        let long = "x".repeat(LONGEST_LINE + 9);
        for _ in 0..2 * LONGEST / LONGEST_LINE as u64 {
            logs.add("train-1", [long.as_str()]);
        }
        let (text, _) = logs.read("train-1", 0).unwrap();
        assert!(text.len() as u64 <= LONGEST + 2 * LONGEST_LINE as u64, "{}", text.len());
        assert!(text.starts_with("20"), "whole lines are left");
        let reopened = JobLogs::open(folder.path(), |job| job != "train-1").unwrap();
        assert_eq!(reopened.read("train-1", 0).unwrap().1, 0);
    }
}
