//! One deployment: how far it is, what each device gets and why, and the manifest.

use proto::v1;

use crate::cli::outcome;
use crate::cli::sheet::Sheet;
use crate::cli::table::tone;
use crate::cli::terminal::Colors;

pub(super) fn describe(deployment: &v1::Deployment, colors: Colors) -> String {
    let mut sheet = Sheet::new(colors);
    sheet.fact("Name", &deployment.name);
    sheet.fact("Generation", deployment.generation.to_string());
    sheet.fact("Network", &deployment.network);
    sheet.toned("Phase", &deployment.phase, tone(&deployment.phase));
    sheet.fact("Message", &deployment.message);
    if deployment.paused {
        sheet.fact("Paused", "yes");
    }
    sheet.fact("Devices", outcome::counts(deployment));
    let devices = outcome::by_device(&deployment.devices);
    sheet.table("Outcomes", &outcome::table("DEVICE", &devices));
    sheet.text("Reasons", &outcome::reasons(&devices, outcome::NO_DEVICE));
    sheet.text("Manifest", deployment.manifest.trim_end());
    sheet.finish()
}
