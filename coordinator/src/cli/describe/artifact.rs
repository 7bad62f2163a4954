//! One derived model: its cost, how it was made, and its layers before and after.

use proto::v1;

use crate::cli::figures::{bytes, count, macs, percent, seconds};
use crate::cli::layers;
use crate::cli::sheet::Sheet;
use crate::cli::terminal::Colors;

pub(super) fn describe(artifact: &v1::Artifact, colors: Colors) -> String {
    let mut sheet = Sheet::new(colors);
    sheet.fact("Digest", &artifact.digest);
    sheet.fact("Network", &artifact.network);
    let footprint = artifact.footprint.as_ref();
    sheet.known("Parameters", footprint, |f| count(f.params));
    sheet.known("MACs", footprint, |f| macs(f.macs));
    sheet.known("Size", footprint, |f| format!("{} ({} bytes)", bytes(f.bytes), count(f.bytes)));
    sheet.known("Memory", footprint, |f| bytes(f.memory_bytes));
    sheet.known("Activations", footprint.filter(|f| f.activation_bytes > 0), |f| bytes(f.activation_bytes));
    sheet.known("Accuracy", artifact.test_accuracy, |accuracy| {
        format!("{} on {} test images", percent(accuracy), count(artifact.test_images.into()))
    });
    let images = count(artifact.train_images.into());
    let training = match artifact.epochs {
        Some(epochs) => format!("{epochs} epochs of {images} images"),
        None => format!("elsewhere; {images} images are there to train on"),
    };
    sheet.fact("Training", training);
    sheet.fact("Pruned in", seconds(artifact.seconds_to_prune));
    sheet.known("Trained in", artifact.seconds_to_train, seconds);
    sheet.table("Layers", &layers::table(&artifact.layers));
    sheet.finish()
}
