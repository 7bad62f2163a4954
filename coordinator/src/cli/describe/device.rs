//! One device: its means, what it measured, and what it got.

use proto::v1;

use crate::cli::figures::{bytes, count, ms, short};
use crate::cli::outcome;
use crate::cli::resource::columns::{ago, labels};
use crate::cli::resource::{Width, table};
use crate::cli::sheet::Sheet;
use crate::cli::table::{Entry, Table, tone};
use crate::cli::terminal::Colors;

pub(super) fn describe(
    device: &v1::Device,
    telemetry: &[v1::TelemetrySummary],
    deployments: &[v1::Deployment],
    colors: Colors,
) -> String {
    let mut sheet = Sheet::new(colors);
    facts(&mut sheet, device);
    sheet.table("Probes", &probes(&device.probes));
    sheet.table("Latency as it served", &table(telemetry, Width::Wide));
    let given: Vec<_> = deployments
        .iter()
        .flat_map(|deployment| {
            let own = deployment.devices.iter().filter(|outcome| outcome.device_id == device.id);
            own.map(|outcome| (deployment.name.as_str(), outcome))
        })
        .collect();
    sheet.table("Deployments", &outcome::table("DEPLOYMENT", &given));
    sheet.text("Reasons", &outcome::reasons(&given, "no deployment has it"));
    sheet.finish()
}

fn facts(sheet: &mut Sheet, device: &v1::Device) {
    let seen = ago(device.last_seen_unix_ms);
    sheet.fact("Name", &device.id);
    sheet.toned("Status", &device.status, tone(&device.status));
    sheet.fact("Last seen", if seen.is_empty() { seen } else { format!("{seen} ago") });
    sheet.fact("Labels", labels(&device.labels));
    sheet.fact("Class", &device.class_id);
    sheet.fact("Architecture", &device.arch);
    sheet.fact("Processor", &device.cpu_model);
    sheet.fact("Instructions", device.instruction_sets.join(" "));
    sheet.known("Vector lanes", device.vector_lanes, |lanes| format!("{lanes} x f32"));
    sheet.fact("Cores", device.logical_cores.to_string());
    sheet.fact("Threads", device.inference_threads.to_string());
    sheet.fact(
        "CPU quota",
        device.cpu_quota_cores.map_or("none".to_owned(), |cores| format!("{cores:.2} cores")),
    );
    sheet.known("Memory", device.memory_total_bytes, bytes);
    sheet.fact("Memory limit", device.memory_limit_bytes.map_or("none".to_owned(), bytes));
    sheet.known("Swap", device.swap_total_bytes, bytes);
    sheet.known("Clock", device.cpu_max_mhz, |mhz| format!("at most {mhz} MHz"));
    sheet.fact("Governor", device.cpu_governor.as_deref().unwrap_or_default());
    sheet.fact("Thermal zone", device.thermal_zone.as_deref().unwrap_or_default());
    sheet.known("Disk free", device.disk_free_bytes, |free| format!("about {}", bytes(free)));
    sheet.fact("Profile", format!("revision {}", device.profile_revision));
    sheet.fact("Engine", &device.engine);
    sheet.fact("Agent", &device.agent_version);
    sheet.fact("Serves at", &device.serving_address);
    sheet.fact("Model", short(&device.active_digest));
    sheet.fact("Runs in", &device.serving_engine);
    sheet.fact("Generation", device.generation.to_string());
    let v1::Device { unreadable_intervals, unreadable_reason, takeovers, .. } = device;
    if *unreadable_intervals > 0 {
        let intervals = count(*unreadable_intervals);
        sheet
            .fact("Unreadable", format!("{intervals} intervals of telemetry, the last: {unreadable_reason}"));
    }
    if *takeovers > 1 {
        let doubt = "do two machines have its key?";
        sheet.fact(
            "Takeovers",
            format!("{takeovers} sessions of late took another's place that was alive: {doubt}"),
        );
    }
}

/// Measured beside fitted: how far the device's latency model can be trusted.
fn probes(probes: &[v1::ProbeResult]) -> Table {
    let mut table = Table::new(["PROBE", "P50", "P95", "FITTED-P95", "ERROR"]);
    for probe in probes {
        let is_fitted = probe.fitted_p95_ms > 0.0 && probe.p95_ms > 0.0;
        let error = || format!("{:+.1}%", (probe.fitted_p95_ms / probe.p95_ms - 1.0) * 100.0);
        table.row([
            Entry::text(&probe.name),
            Entry::figure(ms(probe.p50_ms)),
            Entry::figure(ms(probe.p95_ms)),
            Entry::figure(if is_fitted { ms(probe.fitted_p95_ms) } else { String::new() }),
            Entry::figure(if is_fitted { error() } else { String::new() }),
        ]);
    }
    table
}
