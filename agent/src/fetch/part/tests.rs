//! What counts of a file that grows: after cuts, damage, and lies.

use super::*;

const PIECE: usize = PIECE_BYTES as usize;

/// Bytes without a pattern that a piece could repeat.
fn bytes(length: usize) -> Vec<u8> {
    (0..length).map(|index| (index.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

async fn open(path: &Path, whole: &[u8]) -> Part {
    Part::open(path, ByteSize(whole.len() as u64), Pieces::of(whole)).await.unwrap()
}

#[tokio::test]
async fn whole_pieces_count_and_survive_a_crash() {
    let (dir, whole) = (tempfile::tempdir().unwrap(), bytes(2 * PIECE + 100));
    let path = dir.path().join("part");
    let mut part = open(&path, &whole).await;
    part.push(&whole[..PIECE + 7]).await.unwrap();
    assert_eq!((part.proven(), part.received()), (PIECE as u64, PIECE as u64 + 7));
    drop(part);
    let mut part = open(&path, &whole).await;
    assert_eq!((part.proven(), part.received()), (PIECE as u64, PIECE as u64));
    for chunk in whole[PIECE..].chunks(1000) {
        part.push(chunk).await.unwrap();
    }
    assert!(part.is_whole());
    assert_eq!(part.digest().await.unwrap(), Digest::of(&whole));
    assert_eq!(std::fs::read(&path).unwrap(), whole);
    assert!(open(&path, &whole).await.is_whole());
}

#[tokio::test]
async fn what_is_no_file_gives_way() {
    let (dir, whole) = (tempfile::tempdir().unwrap(), bytes(100));
    let path = |name: &str| dir.path().join(name);
    drop(std::os::unix::net::UnixListener::bind(path("socket")).unwrap());
    std::os::unix::fs::symlink("circle", path("circle")).unwrap();
    let (cwd, fifo) = (rustix::fs::CWD, rustix::fs::FileType::Fifo);
    rustix::fs::mknodat(cwd, path("pipe"), fifo, 0o600.into(), 0).unwrap();
    for name in ["socket", "circle", "pipe"] {
        let mut part = open(&path(name), &whole).await;
        part.push(&whole).await.unwrap();
        assert_eq!(std::fs::read(path(name)).unwrap(), whole, "{name}");
    }
}

#[tokio::test]
async fn what_a_crash_left_is_kept_as_far_as_it_is_right() {
    let (dir, whole) = (tempfile::tempdir().unwrap(), bytes(3 * PIECE + 100));
    let path = dir.path().join("part");
    let mut damaged = whole.clone();
    damaged[PIECE + 5] ^= 1;
    let zeros = [&whole[..2 * PIECE], &vec![0; PIECE][..]].concat();
    let longer = [&whole[..], b"more"].concat();
    for (case, left, proven) in [
        ("nothing", &b""[..], 0),
        ("a torn piece", &whole[..PIECE + 9], PIECE),
        ("a damaged piece", &damaged[..], PIECE),
        ("length without bytes", &zeros[..], 2 * PIECE),
        ("all, and more", &longer[..], whole.len()),
    ] {
        std::fs::write(&path, left).unwrap();
        let mut part = open(&path, &whole).await;
        assert_eq!(part.proven(), proven as u64, "{case}");
        part.push(&whole[proven..]).await.unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), whole, "{case}");
    }
}

#[tokio::test]
async fn a_wrong_piece_is_refused_and_the_right_one_taken_after_it() {
    let (dir, whole) = (tempfile::tempdir().unwrap(), bytes(PIECE + 100));
    let mut part = open(&dir.path().join("part"), &whole).await;
    let wrong = vec![7; PIECE];
    let refused = part.push(&wrong).await.unwrap_err();
    assert!(matches!(&refused, PartError::Corrupt(text) if text.contains("byte 0")), "{refused}");
    assert_eq!(part.received(), 0);
    part.push(&whole).await.unwrap();
    assert!(part.is_whole());
    let refused = part.push(b"x").await.unwrap_err();
    assert!(refused.to_string().contains("longer than the announced"), "{refused}");
}
