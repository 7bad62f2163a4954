//! What the binary says of itself.

use crate::binary::reconvene;

#[test]
fn shells_get_their_scripts() {
    for (shell, mark) in
        [("bash", "_reconvene()"), ("zsh", "#compdef reconvene"), ("fish", "complete -c reconvene")]
    {
        let script = reconvene("", &["completion", shell]).data();
        assert!(script.contains(mark), "{shell}");
        assert!(script.contains("describe"), "{shell}");
    }
}

#[test]
fn every_verb_has_help_with_examples() {
    for verb in ["get", "describe", "apply", "plan", "watch", "serve", "prune", "completion"] {
        let help = reconvene("", &[verb, "--help"]).data();
        assert!(help.contains("Examples:") && help.contains(&format!("reconvene {verb}")), "{verb}: {help}");
    }
    let help = reconvene("", &["token", "list", "--help"]).data();
    assert!(help.contains("USED counts") && !help.contains("for an artifact"), "{help}");
    assert!(reconvene("", &["--version"]).data().starts_with("reconvene 0."));
    assert!(reconvene("", &["--help"]).data().contains("Exit codes:"));
}
