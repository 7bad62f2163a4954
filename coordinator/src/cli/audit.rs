//! `reconvene audit` and `reconvene history`: who did what to what, and whether the log of it is whole.

use std::path::PathBuf;
use std::time::{Duration, UNIX_EPOCH};

use coordinator::audit::{AuditEntry, Flaw, Head, KINDS, verify};
use proto::v1;

use super::Context;
use super::connect::soon;
use super::error::CliError;
use super::output::ReportFormat;
use super::table::{Entry, Table};

/// What to do with the log.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  reconvene audit tail
  reconvene audit verify                       prints its head: note it elsewhere
  reconvene audit verify --head 4711:3f9a...   also that nothing before it was cut off
  reconvene audit export > audit.jsonl         one JSON object a line
  reconvene audit verify --file audit.jsonl")]
pub(crate) struct AuditArgs {
    #[command(subcommand)]
    verb: AuditVerb,
}

#[derive(Debug, clap::Subcommand)]
enum AuditVerb {
    /// Print the last entries
    #[command(after_help = "Example:\n  reconvene audit tail -n 100 --subject device/cam-7")]
    Tail(TailArgs),
    /// Check that no entry was changed or left out
    #[command(after_help = "Example:\n  reconvene audit verify --head 4711:3f9a2b...")]
    Verify(VerifyArgs),
    /// Print every entry, as JSON lines
    #[command(after_help = "Example:\n  reconvene audit export > audit.jsonl")]
    Export,
}

#[derive(Debug, clap::Args)]
struct TailArgs {
    /// How many
    #[arg(short = 'n', long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000))]
    lines: u32,
    /// Only those about this, as in device/cam-7
    #[arg(long, value_name = "KIND/NAME", value_parser = parse_subject)]
    subject: Option<String>,
    /// table, json
    #[arg(short, long, value_enum, hide_possible_values = true, default_value = "table")]
    output: ReportFormat,
}

#[derive(Debug, clap::Args)]
struct VerifyArgs {
    /// An export, instead of the coordinator's log
    #[arg(long)]
    file: Option<PathBuf>,
    /// What `verify` printed earlier: it has to be in the log still
    #[arg(long, value_name = "NUMBER:DIGEST", value_parser = parse_head)]
    head: Option<Head>,
}

/// What became of one thing.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  reconvene history device/cam-7
  reconvene history deployment/fashion -o json")]
pub(crate) struct HistoryArgs {
    /// device/NAME, deployment/NAME, job/NAME, token/NAME, operator/NAME, dataset/NAME, model/NAME, artifact/DIGEST, authority/NUMBER,
    /// coordinator/state (backups that were made) or backup/DIGEST (one that was restored)
    #[arg(value_name = "KIND/NAME", value_parser = parse_subject)]
    subject: String,
    /// The last so many entries
    #[arg(short = 'n', long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1000))]
    lines: u32,
    /// table, json
    #[arg(short, long, value_enum, hide_possible_values = true, default_value = "table")]
    output: ReportFormat,
}

pub(crate) async fn run(args: &AuditArgs, context: &Context) -> Result<(), CliError> {
    match &args.verb {
        AuditVerb::Tail(TailArgs { lines, subject, output }) => {
            show(context, subject.as_deref().unwrap_or_default(), *lines, *output).await
        }
        AuditVerb::Export => {
            for entry in all(context).await? {
                context.terminal.data(&json(&entry)?)?;
            }
            Ok(())
        }
        AuditVerb::Verify(VerifyArgs { file, head }) => {
            let entries = match file {
                Some(file) => read(file)?,
                None => all(context).await?,
            };
            let found = verify(&entries, *head).map_err(|flaw| CliError::Failed(broken(&flaw)))?;
            context.terminal.data(&match found {
                None => "the log is empty".to_owned(),
                Some(Head { sequence, digest }) => {
                    format!("{} entries, none changed or left out; head {sequence}:{digest}", entries.len())
                }
            })
        }
    }
}

pub(crate) async fn history(args: &HistoryArgs, context: &Context) -> Result<(), CliError> {
    show(context, &args.subject, args.lines, args.output).await
}

async fn show(context: &Context, subject: &str, last: u32, output: ReportFormat) -> Result<(), CliError> {
    let request = v1::ListAuditRequest { subject: subject.to_owned(), after: 0, last };
    let entries = ask(context, request).await?;
    if entries.is_empty() {
        let about = if subject.is_empty() { String::new() } else { format!(" about {subject}") };
        context.terminal.say(&format!("no entries{about}"));
        return Ok(());
    }
    match output {
        ReportFormat::Json => entries.iter().try_for_each(|entry| context.terminal.data(&json(entry)?)),
        ReportFormat::Table => {
            let mut table = Table::new(["TIME", "BY", "ACTION", "SUBJECT", "BEFORE", "AFTER"]);
            for entry in &entries {
                let at = UNIX_EPOCH + Duration::from_millis(entry.at_unix_ms);
                table.row([
                    Entry::text(humantime::format_rfc3339_seconds(at).to_string()),
                    Entry::text(&entry.actor),
                    Entry::text(&entry.action),
                    Entry::text(&entry.subject),
                    Entry::text(first_line(&entry.before)),
                    Entry::text(first_line(&entry.after)),
                ]);
            }
            context.terminal.data(&table.render(context.terminal.colors))
        }
    }
}

async fn ask(context: &Context, request: v1::ListAuditRequest) -> Result<Vec<AuditEntry>, CliError> {
    let mut client = context.server.connect().await?;
    let answer = client.list_audit(soon(request)).await.map_err(|status| context.server.refusal(status))?;
    answer.into_inner().entries.into_iter().map(entry).collect()
}

/// The whole log, page by page.
async fn all(context: &Context) -> Result<Vec<AuditEntry>, CliError> {
    let mut entries: Vec<AuditEntry> = Vec::new();
    loop {
        let after = entries.last().map_or(0, |last| last.sequence);
        let page = ask(context, v1::ListAuditRequest { after, ..Default::default() }).await?;
        if page.is_empty() {
            return Ok(entries);
        }
        entries.extend(page);
    }
}

fn entry(wire: v1::AuditEntry) -> Result<AuditEntry, CliError> {
    let v1::AuditEntry { sequence, at_unix_ms, actor, action, subject, before, after, previous, digest } =
        wire;
    let digest_of = |text: &str| {
        text.parse().map_err(|_| CliError::Failed(format!("entry {sequence} has no digest: '{text}'")))
    };
    let (previous, digest) = (digest_of(&previous)?, digest_of(&digest)?);
    Ok(AuditEntry { sequence, at_unix_ms, actor, action, subject, before, after, previous, digest })
}

fn read(file: &PathBuf) -> Result<Vec<AuditEntry>, CliError> {
    let text = std::fs::read_to_string(file)
        .map_err(|error| CliError::BadInput(format!("cannot read {}: {error}", file.display())))?;
    let lines = text.lines().enumerate();
    lines
        .map(|(index, line)| {
            serde_json::from_str(line).map_err(|error| {
                CliError::BadInput(format!("{}, line {}: {error}", file.display(), index + 1))
            })
        })
        .collect()
}

fn json(entry: &AuditEntry) -> Result<String, CliError> {
    serde_json::to_string(entry).map_err(|error| CliError::Failed(format!("cannot write an entry: {error}")))
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

fn broken(flaw: &Flaw) -> String {
    format!("the audit log is not whole: {flaw}")
}

fn parse_subject(text: &str) -> Result<String, String> {
    match text.split_once('/') {
        Some((kind, name)) if KINDS.contains(&kind) && !name.is_empty() => Ok(text.to_owned()),
        Some((kind, name)) if !kind.is_empty() && !name.is_empty() => {
            Err(format!("the log is about nothing of the kind '{kind}'; allowed: {}", KINDS.join(", ")))
        }
        _ => Err("write KIND/NAME, as in device/cam-7".to_owned()),
    }
}

fn parse_head(text: &str) -> Result<Head, String> {
    let parsed = text.split_once(':').and_then(|(sequence, digest)| {
        Some(Head { sequence: sequence.parse().ok()?, digest: digest.parse().ok()? })
    });
    parsed.ok_or_else(|| "write NUMBER:DIGEST, as `audit verify` prints it".to_owned())
}
