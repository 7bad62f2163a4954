//! Random names and secrets, in hexadecimal.

use std::fmt::Write as _;

use ring::rand::{SecureRandom as _, SystemRandom};

/// `bytes` random bytes.
///
/// # Errors
/// When the system gives none.
pub fn random(bytes: usize) -> std::io::Result<String> {
    let mut buffer = vec![0; bytes];
    let refuse = |_| std::io::Error::other("the system gives no random numbers");
    SystemRandom::new().fill(&mut buffer).map_err(refuse)?;
    Ok(buffer.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    }))
}
