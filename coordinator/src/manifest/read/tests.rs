//! Every refusal names its line, what stands there, and what may.

use proto::ByteSize;

use pruner_core::dataset::TestShare;
use pruner_core::plan::Coupled;
use pruner_core::pruning::Pruning;
use pruner_core::rectify::Reinit;
use pruner_core::saliency::Criterion;
use pruner_core::sensitivity::Measure;

use super::*;
use crate::limit::{Count, Limit};
use crate::manifest::{DatasetFormat, DatasetSpec, GrowSpec, Span, Wave};

const MINIMAL: &str = "\
apiVersion: reconvene/v1
kind: Deployment
metadata:
  name: fashion
spec:
  network: resnet20
  dataset: { format: idx, path: /data }
";

fn read(text: &str) -> Result<DeploymentManifest<DatasetRef>, ManifestError> {
    DeploymentManifest::read(text)
}

/// The message for the minimal manifest with `lines` added to its spec.
fn refusal(lines: &str) -> String {
    read(&format!("{MINIMAL}{lines}")).unwrap_err().to_string()
}

/// The message for the minimal manifest with `old` replaced.
fn refusal_with(old: &str, new: &str) -> String {
    assert!(MINIMAL.contains(old));
    read(&MINIMAL.replace(old, new)).unwrap_err().to_string()
}

#[test]
fn little_is_needed() {
    let manifest = read(MINIMAL).unwrap();
    assert_eq!(manifest.metadata.name, "fashion");
    assert_eq!(manifest.spec.rollout.waves, [Wave::Percent(100)]);
    assert_eq!(manifest.spec.budgets, []);
}

#[test]
fn budgets_are_figures_or_shares() {
    let text =
        "  budgets:\n    - { selector: { tier: small }, params: 1/16.21, size: 64Ki }\n    - params: 90000\n";
    let budgets = read(&format!("{MINIMAL}{text}")).unwrap().spec.budgets;
    assert_eq!(budgets[0].params, Some(Limit::OfDense(1.0 / 16.21)));
    assert_eq!(budgets[0].size, Some(Limit::Absolute(ByteSize(65_536))));
    assert_eq!(budgets[1].params, Some(Limit::Absolute(Count(90_000))));
}

#[test]
fn choices_of_pruning_have_names() {
    let text = "  pruning: { criterion: snip, rounds: 1, measure: flow-gap, coupled: skip, reinit: full }\n";
    let pruning = read(&format!("{MINIMAL}{text}")).unwrap().spec.pruning.pruning();
    assert_eq!((pruning.criterion, pruning.measure), (Criterion::Snip, Measure::FlowGap));
    assert_eq!((pruning.widths.coupled, pruning.reinit), (Coupled::Skip, Reinit::Full));
    assert_eq!(read(MINIMAL).unwrap().spec.pruning.pruning(), Pruning::default());
    assert_eq!(
        refusal("  pruning: { criterion: l1 }\n"),
        "line 8, column 25: spec.pruning.criterion: 'l1' is not known; \
         allowed: synflow, snip, grasp, magnitude, random"
    );
    assert_eq!(
        refusal("  pruning: { exponent: -1 }\n"),
        "line 8, column 24: spec.pruning.exponent: -1 is not allowed; from 0 to 4, as in 0.25"
    );
}

#[test]
fn what_was_read_can_be_written_and_read_again() {
    let text = "  budgets:\n    - { selector: { tier: small }, params: 1/4, latencyP95: 800us }\n";
    let manifest = read(&format!("{MINIMAL}{text}")).unwrap();
    assert_eq!(read(&serde_saphyr::to_string(&manifest).unwrap()).unwrap(), manifest);
}

/// Stored manifests and derivations are found again by digests of these texts.
#[test]
fn settings_at_their_defaults_are_not_written() {
    let spec = read(MINIMAL).unwrap().spec;
    assert_eq!(
        serde_json::to_string(&spec.pruning).unwrap(),
        r#"{"rounds":100,"density":0.061690314620604564,"exponent":0.25,"seed":1,"minChannels":2}"#
    );
    assert_eq!(
        serde_json::to_string(&spec.training).unwrap(),
        r#"{"epochs":10,"batch":64,"learningRate":0.1,"weightDecay":0.0005,"seed":1}"#
    );
}

#[test]
fn unknown_fields_are_named_with_their_line() {
    assert_eq!(
        refusal("  nework: resnet20\n"),
        "line 8, column 3: unknown field 'nework'; allowed here: \
         selector, network, dataset, pruning, training, budgets, rollout"
    );
    assert_eq!(
        refusal("  budgets:\n    - parameters: 5\n"),
        "line 9, column 7: unknown field 'parameters'; allowed here: \
         selector, params, macs, size, memory, activations, latencyP50, latencyP95"
    );
}

#[test]
fn values_of_the_wrong_type_are_named_by_their_path() {
    assert_eq!(
        refusal("  training: { epochs: many }\n"),
        "line 8, column 23: spec.training.epochs: must be a whole number from 0 to 4294967295"
    );
    assert_eq!(
        refusal("  budgets:\n    - params: 1/x\n"),
        "line 9, column 15: spec.budgets.0.params: invalid share: \
         '1/x' is not a share of the dense network such as 1/16.21 or 25%"
    );
    assert_eq!(
        refusal_with("format: idx", "format: png"),
        "line 7, column 22: spec.dataset.format: 'png' is not known; allowed: idx, cifar10, cifar100, folder"
    );
}

#[test]
fn a_test_share_is_for_folders_of_images() {
    let dataset = |text: &str| MINIMAL.replace("{ format: idx, path: /data }", text);
    let spec = read(&dataset("{ format: folder, path: /data, testShare: 0.2 }")).unwrap().spec.dataset;
    let test_share = Some(TestShare::new(0.2).unwrap());
    let (format, path) = (DatasetFormat::Folder, "/data".into());
    assert_eq!(spec, DatasetRef::Files(DatasetSpec { format, path, test_share }));
    // Derivations are named by this text: those without a share keep their names.
    let without = serde_json::to_string(&read(MINIMAL).unwrap().spec.dataset).unwrap();
    assert_eq!(without, r#"{"format":"idx","path":"/data"}"#);
    for (text, expected) in [
        (
            "{ format: cifar10, path: /data, testShare: 0.2 }",
            "line 7, column 55: spec.dataset.testShare: is not allowed with format cifar10, which has test images of \
             its own; only with folder",
        ),
        (
            "{ format: folder, path: /data, testShare: 1 }",
            "line 7, column 54: spec.dataset.testShare: 1 is not allowed; more than 0, less than 1, as in 0.2",
        ),
        (
            "{ format: folder, path: /data, testShare: much }",
            "line 7, column 54: spec.dataset.testShare: must be a number",
        ),
    ] {
        assert_eq!(read(&dataset(text)).unwrap_err().to_string(), expected);
    }
}

#[test]
fn a_dataset_has_a_name_or_files() {
    let dataset = |text: &str| read(&MINIMAL.replace("{ format: idx, path: /data }", text));
    let named = dataset("{ name: fashion }").unwrap();
    assert_eq!(named.spec.dataset, DatasetRef::Named { name: "fashion".to_owned() });
    assert_eq!(read(&serde_saphyr::to_string(&named).unwrap()).unwrap(), named);
    for (text, expected) in [
        (
            "{ name: fashion, format: idx }",
            "line 7, column 20: spec.dataset.name: stands for the files: give it alone",
        ),
        (
            "{ name: My Images }",
            "line 7, column 20: spec.dataset.name: 'My Images' is not 1 to 63 of a-z 0-9 - . with a letter or digit \
             at both ends",
        ),
        ("{ format: idx }", "line 7, column 12: spec.dataset: needs a path, or the name of an added dataset"),
        (
            "{ path: /data }",
            "line 7, column 12: spec.dataset: needs a format: idx, cifar10, cifar100 or folder",
        ),
        (
            "{ named: fashion }",
            "line 7, column 14: unknown field 'named'; allowed here: name, format, path, testShare",
        ),
    ] {
        assert_eq!(dataset(text).unwrap_err().to_string(), expected);
    }
}

#[test]
fn values_that_make_no_sense_are_refused() {
    for (lines, expected) in [
        (
            "  rollout: { waves: [50, 10] }\n",
            "line 8, column 21: spec.rollout.waves: [50, 10] is not allowed; \
             percentages from 1 to 100 and counts from 1, each above the one before, and selectors that match something new, \
             as in [{ selector: site=lab }, { count: 3 }, 25, 100]",
        ),
        ("  training:\n    epochs: 0\n", "line 9, column 13: spec.training.epochs: must be at least 1"),
        (
            "  pruning: { rounds: 0 }\n",
            "line 8, column 22: spec.pruning.rounds: 0 is not allowed; from 1 to 10000",
        ),
        (
            "  pruning: { density: 1.5 }\n",
            "line 8, column 23: spec.pruning.density: 1.5 is not allowed; more than 0, at most 1",
        ),
        (
            "  training: { learningRate: -0.1 }\n",
            "line 8, column 29: spec.training.learningRate: must be above 0",
        ),
        ("  budgets: [{ size: 0 }]\n", "line 8, column 21: spec.budgets.0.size: must be above 0"),
    ] {
        assert_eq!(refusal(lines), expected);
    }
    assert!(refusal("  pruning: { density: .nan }\n").contains("spec.pruning.density"));
    assert!(refusal("  rollout: { waves: [0, 100] }\n").contains("spec.rollout.waves"));
    for waves in [
        "[50, 101]",
        "[-1]",
        "[1000]",
        "[100, { count: 5 }]",
        "[{ count: 0 }]",
        "[{ count: 3 }, { count: 3 }]",
        "[{ selector: {} }]",
        "[{ selector: site=lab }, { selector: 'site=lab,arch=x86_64' }]",
        "[{ selector: site=lab, count: 1 }]",
        "[many]",
        "[['25']]",
    ] {
        let refused = refusal(&format!("  rollout: {{ waves: {waves} }}\n"));
        assert!(refused.contains("spec.rollout.waves"), "{waves}: {refused}");
    }
    let refused = refusal("  rollout: { waves: [{ number: 3 }] }\n");
    assert_eq!(refused, "line 8, column 24: unknown field 'number'; allowed here: count, selector");
    for (bake, said) in [("9999d", "9999d"), ("1200h", "50d"), ("49d 20h", "49d 20h")] {
        let refused = refusal(&format!("  rollout: {{ bake: {bake} }}\n"));
        let expected = format!("spec.rollout.bake: {said} is too long; at most 49d 17h");
        assert!(refused.ends_with(&expected), "{refused}");
    }
    assert!(read(&format!("{MINIMAL}  rollout: {{ bake: 49d 17h }}\n")).is_ok());
}

#[test]
fn headers_are_checked() {
    for (old, new, expected) in [
        (
            "reconvene/v1",
            "apps/v1",
            "line 1, column 13: apiVersion: 'apps/v1' is not known; allowed: reconvene/v1",
        ),
        ("kind: Deployment", "kind: Pod", "line 2, column 7: kind: 'Pod' is not known; allowed: Deployment"),
        (
            "name: fashion",
            "name: Fashion!",
            "line 4, column 9: metadata.name: 'Fashion!' is not \
             1 to 63 of a-z 0-9 - . with a letter or digit at both ends",
        ),
        (
            "network: resnet20",
            "network: My_Net",
            "line 6, column 12: spec.network: 'My_Net' is not 1 to 63 of a-z 0-9 - . with a letter or digit at both ends",
        ),
        ("  network: resnet20\n", "", "line 6, column 3: field 'network' is missing"),
    ] {
        assert_eq!(refusal_with(old, new), expected);
    }
}

#[test]
fn a_rule_that_never_applies_is_refused() {
    let lines = "  budgets:\n    - params: 25%\n    - { selector: { tier: small }, params: 10% }\n";
    assert_eq!(
        refusal(lines),
        "line 10, column 7: spec.budgets.1: rule 2 of the list never applies: \
         rule 1 already matches all of its devices; put the narrower one first"
    );
    let reordered = "  budgets:\n    - { selector: { tier: small }, params: 10% }\n    - params: 25%\n";
    assert!(read(&format!("{MINIMAL}{reordered}")).is_ok());
}

#[test]
fn texts_that_are_no_manifest_are_refused_with_a_place() {
    for text in ["", "- a\n", "a: [", "kind: Deployment\nkind: Deployment\n", "\u{0}", "'"] {
        let message = read(text).unwrap_err().to_string();
        assert!(message.starts_with("line "), "{message}");
        assert!(!message.contains('\n'), "{message}");
    }
    let two = format!("{MINIMAL}---\n{MINIMAL}");
    assert_eq!(
        read(&two).unwrap_err().to_string(),
        "line 9, column 1: a second document begins; a manifest holds one deployment"
    );
    assert_eq!(refusal("  network: vgg16-bn\n"), "line 8, column 3: field 'network' is given twice");
}

#[test]
fn the_shipped_example_is_valid() {
    let manifest = read(include_str!("../../../../deploy/examples/fashion-mnist.yaml")).unwrap();
    assert_eq!(manifest.metadata.name, "fashion-mnist");
    assert_eq!(manifest.spec.budgets.len(), 3);
}

#[test]
fn devices_are_selected_by_what_they_are_too() {
    let manifest = read(&format!("{MINIMAL}  selector: site=berlin,memory>=512Mi\n")).unwrap();
    assert_eq!(manifest.spec.selector, "site=berlin,memory>=536870912".parse().unwrap());
    assert_eq!(
        refusal("  selector: site>berlin\n"),
        "line 8, column 13: spec.selector: site has no order: only = and != are allowed; ordered are cores, threads, memory"
    );
    assert_eq!(
        refusal("  budgets:\n    - { selector: memory<tiny, params: 10% }\n"),
        "line 9, column 19: spec.budgets.0.selector: 'tiny' is no amount of memory; as in 4, or 512Mi"
    );
    let hidden = "  budgets:\n    - { selector: cores>=2, params: 25% }\n    - { selector: 'cores>=2,site=berlin', params: 10% }\n";
    assert!(refusal(hidden).contains("rule 2 of the list never applies"), "{}", refusal(hidden));
}

#[test]
fn growing_is_off_and_has_bounds() {
    assert_eq!(read(MINIMAL).unwrap().spec.rollout.grow, None);
    let grow = |text: &str| read(&format!("{MINIMAL}  rollout: {{ grow: {text} }}\n"));
    let day = std::time::Duration::from_secs(86_400);
    let usual = GrowSpec { when_room: 30.0, at_most_every: Span(day), at_least_requests: 1000 };
    let manifest = grow("{}").unwrap();
    assert_eq!(manifest.spec.rollout.grow, Some(usual));
    assert_eq!(read(&serde_saphyr::to_string(&manifest).unwrap()).unwrap(), manifest);
    let spec = grow("{ whenRoom: 50, atMostEvery: 6h, atLeastRequests: 400 }").unwrap().spec.rollout.grow;
    assert_eq!(spec.unwrap().at_least_requests, 400);
    for (text, expected) in [
        (
            "{ whenRoom: 10 }",
            "line 8, column 32: spec.rollout.grow.whenRoom: 10 is not allowed; percent, from 20, which plans leave \
             free anyway, to 95, as in 30",
        ),
        (
            "{ atMostEvery: 0s }",
            "line 8, column 35: spec.rollout.grow.atMostEvery: 0 is not allowed; as in 1d",
        ),
        (
            "{ atMostEvery: often }",
            "line 8, column 35: spec.rollout.grow.atMostEvery: 'often' is no time; as in 10m, 30s, 1h 30m",
        ),
        (
            "{ atLeastRequests: 100 }",
            "line 8, column 39: spec.rollout.grow.atLeastRequests: 100 is not allowed; at least 400",
        ),
        (
            "{ whenRom: 30 }",
            "line 8, column 22: unknown field 'whenRom'; allowed here: whenRoom, atMostEvery, atLeastRequests",
        ),
        (
            "{}, approval: true",
            "line 8, column 20: spec.rollout.grow: is not allowed with approval: networks grow without asking; leave \
             one of them out",
        ),
    ] {
        assert_eq!(grow(text).unwrap_err().to_string(), expected);
    }
    assert!(
        refusal("  training: { trainer: external }\n  rollout: { grow: {} }\n")
            .contains("spec.rollout.grow: is not allowed with trainer external")
    );
}

#[test]
fn a_text_that_is_too_much_is_refused_in_words() {
    let text = read(&format!("{MINIMAL}status: [{}0]\n", "0,".repeat(300_000))).unwrap_err().to_string();
    assert!(text.ends_with("the text is larger, or nested deeper, than any manifest is"), "{text}");
}
