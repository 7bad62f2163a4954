//! How hot the processor is, where the kernel knows.

use std::fs;
use std::path::{Path, PathBuf};

/// What kernels name the sensor of a processor, the best first; of others none is taken for it.
const KNOWN: [&str; 6] = ["x86_pkg_temp", "cpu", "soc", "acpitz", "cpu_thermal", "coretemp"];

/// A sensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Zone {
    pub(super) name: String,
    folder: PathBuf,
}

/// The processor's.
pub(super) fn zone(root: &Path) -> Option<Zone> {
    let entries = fs::read_dir(root.join("sys/class/thermal")).ok()?;
    let zones = entries.filter_map(|entry| {
        let folder = entry.ok()?.path();
        let name = fs::read_to_string(folder.join("type")).ok()?.trim().to_owned();
        let lower = name.to_lowercase();
        let rank = KNOWN.iter().position(|known| lower.contains(known))?;
        read(&folder).map(|_| (rank, folder.clone(), Zone { name, folder }))
    });
    zones.min_by(|(a, at_a, _), (b, at_b, _)| (a, at_a).cmp(&(b, at_b))).map(|(_, _, zone)| zone)
}

/// The processor's temperature now, thousandths of a degree Celsius.
pub fn millicelsius() -> Option<i32> {
    read(&zone(Path::new("/"))?.folder)
}

fn read(folder: &Path) -> Option<i32> {
    fs::read_to_string(folder.join("temp")).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_processors_sensor_is_found_among_others() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(zone(root.path()), None);
        for (index, name, temp) in [
            (0, "iwlwifi_1", "40000"),
            (1, "acpitz", "27800"),
            (2, "x86_pkg_temp", "51000"),
            (3, "cpu-broken", ""),
        ] {
            let folder = root.path().join(format!("sys/class/thermal/thermal_zone{index}"));
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join("type"), format!("{name}\n")).unwrap();
            fs::write(folder.join("temp"), format!("{temp}\n")).unwrap();
        }
        let zone = zone(root.path()).unwrap();
        assert_eq!((zone.name.as_str(), read(&zone.folder)), ("x86_pkg_temp", Some(51_000)));
    }
}
