//! `reconvene backup` and `reconvene restore`: the coordinator's whole state as one file, and back.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use coordinator::app::authority_folder;
use coordinator::backup::format::Manifest;
use coordinator::backup::name::Name;
use coordinator::backup::restore::{self, Occupied, RestoreError, Restored};
use coordinator::backup::{self, BackupError, Keys, Origin, Prepared};
use coordinator::blob::BlobStore;
use coordinator::causes::chain;
use coordinator::identity::authorities::Authorities;
use coordinator::local::USER;
use coordinator::store::{SledStore, StoreError};
use proto::v1;
use proto::v1::backup_response::Part;

use super::Context;
use super::destination::Destination;
use super::error::CliError;
use super::figures::{bytes, count};
use super::progress::{Job, Progress, Stage};

/// Where the state goes.
#[derive(Debug, clap::Args)]
#[command(subcommand_negates_reqs = true, args_conflicts_with_subcommands = true)]
#[command(after_help = "\
The file holds all records, the model files that they name, and the coordinator's private keys: whoever has it can be the
coordinator. It is made for its owner alone; keep it so. It needs the role admin. What is not in it: where trainings stand
(they begin anew), data sets, and the configuration file.

Examples:
  reconvene backup --out reconvene.backup
  reconvene backup --out reconvene.backup --state-dir /var/lib/reconvene   the coordinator is stopped
  reconvene backup inspect reconvene.backup")]
pub(crate) struct BackupArgs {
    #[command(subcommand)]
    verb: Option<BackupVerb>,
    /// The file that is written
    #[arg(long, value_name = "FILE", required = true)]
    out: Option<PathBuf>,
    /// Of a coordinator that is stopped: its state folder, which is not written to
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// Replace the file where it is there already
    #[arg(long)]
    force: bool,
    /// Leave the private keys out; a coordinator restored from it starts once they are put back
    #[arg(long)]
    without_keys: bool,
}

#[derive(Debug, clap::Subcommand)]
enum BackupVerb {
    /// Check every byte of a backup, and tell what it holds
    #[command(after_help = "Example:\n  reconvene backup inspect reconvene.backup")]
    Inspect {
        /// The backup
        file: PathBuf,
    },
}

/// From what, and to where.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The coordinator is stopped, here and wherever else it ran: two with the same keys give devices contradicting orders. The
backup is checked to its last byte before anything is written, and the folder is there in full or not at all.

What came after the backup was taken is lost: bans, revoked tokens and operators, devices that joined, telemetry that devices
have handed over. Generations go on above all that devices may have seen, and each is told again what it had.

Examples:
  reconvene restore reconvene.backup --check
  reconvene restore reconvene.backup --state-dir /var/lib/reconvene
  reconvene restore reconvene.backup --state-dir /var/lib/reconvene --force   what is there is moved aside")]
pub(crate) struct RestoreArgs {
    /// The backup
    file: PathBuf,
    /// The coordinator's state folder
    #[arg(long, value_name = "DIR", required_unless_present = "check")]
    state_dir: Option<PathBuf>,
    /// Give what is in the folder another name
    #[arg(long)]
    force: bool,
    /// Check the backup, and write nothing
    #[arg(long)]
    check: bool,
}

pub(crate) async fn backup(args: &BackupArgs, context: &Context) -> Result<(), CliError> {
    if let Some(BackupVerb::Inspect { file }) = &args.verb {
        return inspect(file, context);
    }
    let Some(out) = &args.out else { return Err(CliError::Usage("--out names the file".to_owned())) };
    if out == Path::new("-") {
        let text = "a backup is written to a file, which is there in full or not at all; name one, as in --out reconvene.backup";
        return Err(CliError::Usage(text.to_owned()));
    }
    Destination::check(out)?;
    if !args.force && out.symlink_metadata().is_ok() {
        let there = "it is there already; another name keeps both, --force replaces it";
        let source = io::Error::new(io::ErrorKind::AlreadyExists, there);
        return Err(CliError::Unwritable { path: out.clone(), source });
    }
    let keys = if args.without_keys { Keys::LeftOut } else { Keys::Included };
    let manifest = match &args.state_dir {
        Some(state_dir) => tokio::task::block_in_place(|| of_folder(state_dir, out, keys))?,
        None => of_coordinator(out, keys, context).await?,
    };
    for digest in &manifest.missing {
        context.terminal.say(&format!(
            "warning: the file of {digest} is gone or damaged, and not in the backup; `reconvene rollout retry` of a deployment that fails by it makes it anew"
        ));
    }
    if manifest.has_keys {
        context
            .terminal
            .say("it holds the coordinator's private keys: keep it where nobody else can read it");
    }
    context.terminal.data(&format!("{}: {}", out.display(), summary(&manifest)))
}

pub(crate) async fn restore(args: &RestoreArgs, context: &Context) -> Result<(), CliError> {
    let state_dir = match &args.state_dir {
        Some(state_dir) if !args.check => state_dir,
        Some(_) | None => return inspect(&args.file, context),
    };
    let occupied = if args.force { Occupied::MoveAside } else { Occupied::Refuse };
    let by = format!("{USER}{}", rustix::process::geteuid().as_raw());
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_millis() as u64);
    let restored =
        tokio::task::block_in_place(|| restore::restore(&args.file, state_dir, occupied, (&by, now)));
    let Restored { manifest, digest, floor, told_again, flaw, aside } = restored.map_err(refusal)?;
    let terminal = &context.terminal;
    if let Some(aside) = aside {
        terminal.say(&format!("what was in {} is in {} now", state_dir.display(), aside.display()));
    }
    if let Some(flaw) = flaw {
        terminal.say(&format!("warning: the audit log was not whole when it was backed up: {flaw}"));
    }
    if !manifest.has_keys {
        terminal
            .say("warning: its private keys were left out; the coordinator starts once they are put back");
    }
    terminal.say(&format!(
        "lost is what came after {}: bans, revocations of tokens and operators, and uses of tokens (do them again before \
         devices connect); devices that joined since (they need a new token); telemetry that devices have handed over since",
        restore::time(manifest.taken_unix_ms)
    ));
    terminal.say(&format!(
        "{told_again} devices are told again what they had; generations go on above {floor}; the audit log says so"
    ));
    terminal.data(&format!("{} restored from backup {}", state_dir.display(), digest.short()))
}

fn inspect(file: &Path, context: &Context) -> Result<(), CliError> {
    let (manifest, digest) = tokio::task::block_in_place(|| restore::check(file)).map_err(refusal)?;
    let mut text = format!(
        "{}: whole; {}\nbackup {digest}, taken {} by version {}\n",
        file.display(),
        summary(&manifest),
        restore::time(manifest.taken_unix_ms),
        manifest.coordinator
    );
    for member in &manifest.files {
        if let Name::Records(kind) = &member.name {
            text += &format!("{:>9}  {kind}\n", count(member.records));
        }
    }
    context.terminal.data(&text)
}

fn summary(manifest: &Manifest) -> String {
    let files = manifest.files.iter().filter(|file| matches!(file.name, Name::Blob(_))).count();
    let keys = if manifest.has_keys { "with keys" } else { "without keys" };
    let (records, size) = (count(manifest.records()), bytes(manifest.length()));
    format!("{records} records, {} model files, {keys}, {size}", count(files as u64))
}

async fn of_coordinator(out: &Path, keys: Keys, context: &Context) -> Result<Manifest, CliError> {
    let mut client = context.server.connect().await?;
    let refuse = |status| context.server.refusal(status);
    let request = v1::BackupRequest { without_keys: keys == Keys::LeftOut };
    let mut parts = client.backup(request).await.map_err(refuse)?.into_inner();
    let first = parts.message().await.map_err(refuse)?.and_then(|first| first.part);
    let Some(Part::Header(header)) = first else {
        return Err(CliError::Failed("the coordinator sent no header; is it of another version?".to_owned()));
    };
    let mut progress = Progress::new(&context.terminal);
    let mut job =
        Job { name: "backup", done: 0, total: header.size, message: "bytes", stage: Stage::Running };
    let runtime = tokio::runtime::Handle::current();
    let saved = tokio::task::block_in_place(|| {
        backup::save(out, |file: &mut File| -> Result<(), Saving> {
            while let Some(part) =
                runtime.block_on(parts.message()).map_err(|status| Saving::Cli(refuse(status)))?
            {
                if let Some(Part::Chunk(chunk)) = part.part {
                    file.write_all(&chunk)?;
                    job.done += chunk.len() as u64;
                    progress.job(&job);
                }
            }
            Ok(())
        })
    });
    job.stage = Stage::Finished;
    progress.job(&job);
    progress.finish();
    let manifest = saved.map_err(|error| error.at(out))?;
    let held = header.held_us as f64 / 1000.0;
    context.terminal.say(&format!("the coordinator's writes waited {held:.1} ms"));
    Ok(manifest)
}

/// Reads a copy of the store: the folder itself stays as it is, whoever runs this.
fn of_folder(state_dir: &Path, out: &Path, keys: Keys) -> Result<Manifest, CliError> {
    let store = state_dir.join("store");
    if !store.join("db").exists() {
        return Err(CliError::Missing(format!("{} has no store", state_dir.display())));
    }
    let unreadable = |path: &Path| {
        let path = path.to_owned();
        |source| CliError::Unreadable { path, source }
    };
    let _stopped = SledStore::lock(&store).map_err(|error| CliError::Failed(chain(&error)))?;
    let beside = out.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let unwritable = |source| CliError::Unwritable { path: out.to_owned(), source };
    let scratch = tempfile::Builder::new().prefix(".reconvene-").tempdir_in(beside).map_err(unwritable)?;
    let copy = scratch.path().join("store");
    copy_folder(&store, &copy).map_err(unreadable(&store))?;
    let failed = |error: &dyn std::error::Error| CliError::Failed(chain(error));
    let opened = SledStore::open(&copy).map_err(|error: StoreError| failed(&error))?;
    let blobs = BlobStore::look_into(state_dir.join("artifacts"));
    let blobs = blobs.map_err(|error| CliError::Failed(chain(&error)))?;
    let origin = Origin { store: &opened, blobs: &blobs, state_dir, scratch: scratch.path() };
    let authority = || Authorities::files_in(&authority_folder(state_dir));
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_millis() as u64);
    let prepared =
        Prepared::of(&origin, keys, authority, now).map_err(|error: BackupError| failed(&error))?;
    backup::save(out, |file: &mut File| {
        let mut buffered = io::BufWriter::with_capacity(1 << 20, file);
        prepared.write(&mut buffered)?;
        buffered.flush()
    })
    .map_err(unwritable)
}

fn copy_folder(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let copy = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_folder(&entry.path(), &copy)?;
        } else {
            fs::copy(entry.path(), copy)?;
        }
    }
    Ok(())
}

/// What may go wrong while a backup comes in.
enum Saving {
    Cli(CliError),
    File(io::Error),
}

impl From<io::Error> for Saving {
    fn from(error: io::Error) -> Self {
        Self::File(error)
    }
}

impl Saving {
    fn at(self, path: &Path) -> CliError {
        match self {
            Self::Cli(error) => error,
            Self::File(source) => CliError::Unwritable { path: path.to_owned(), source },
        }
    }
}

fn refusal(error: RestoreError) -> CliError {
    let text = chain(&error);
    match error {
        RestoreError::Format { .. } | RestoreError::Schema { .. } => CliError::BadInput(text),
        RestoreError::File { path, source, step: "read" } => CliError::Unreadable { path, source },
        RestoreError::File { .. }
        | RestoreError::Store(_)
        | RestoreError::Occupied { .. }
        | RestoreError::Underway { .. }
        | RestoreError::Clock => CliError::Failed(text),
    }
}
