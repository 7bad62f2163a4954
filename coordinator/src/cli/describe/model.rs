//! One dense network.

use proto::v1;

use crate::cli::figures::{bytes, count, macs};
use crate::cli::resource::columns::shape;
use crate::cli::sheet::Sheet;
use crate::cli::terminal::Colors;

pub(super) fn describe(model: &v1::Model, colors: Colors) -> String {
    let mut sheet = Sheet::new(colors);
    sheet.fact("Name", &model.name);
    sheet.fact("Input", shape(&model.input_shape));
    sheet.fact("Classes", model.classes.to_string());
    sheet.fact("Parameters", count(model.params));
    sheet.fact("MACs", macs(model.macs));
    sheet.fact("Size", format!("{} ({} bytes)", bytes(model.bytes), count(model.bytes)));
    sheet.fact("Origin", &model.origin);
    if !model.digest.is_empty() {
        sheet.fact("File", &model.digest);
    }
    if !model.notes.is_empty() {
        sheet.text("Carried through unchanged", &model.notes.join("\n"));
    }
    if model.origin == "zoo" {
        let name = &model.name;
        let example = format!("reconvene prune --network {name} --budget params=1/4 --out model.onnx");
        sheet.text("To prune it without a fleet", &example);
    }
    sheet.finish()
}
