//! Lays the program that starts under one path: mounts the image of a slot, and points `current` at it or at the package.

use super::slots::{Slot, Slots, Standing};
use anyhow::{Context, Result, ensure};
use std::{
    fs, io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

/// The folders of one board.
#[derive(Clone, Debug)]
pub struct Places {
    pub store: PathBuf,
    pub stage: PathBuf,
}

impl Places {
    /// What runs since the last start; `None`: the package's program.
    pub fn booted(&self) -> Option<Slot> {
        Slot::named(fs::read_to_string(self.stage.join("booted")).ok()?.trim())
    }

    /// Chooses what starts, counts it, and lays it under `current`. An image that cannot be mounted is bad, and the next is taken.
    pub fn start(&self) -> Result<Option<Slot>> {
        fs::create_dir_all(self.stage.join("slot"))
            .with_context(|| format!("cannot make {}", self.stage.display()))?;
        let mut slots = Slots::load(&self.store);
        loop {
            let before = slots.clone();
            let Some(slot) = slots.begin() else {
                // What is mounted cannot be updated.
                self.unmount();
                self.point(Path::new("/usr"), "package")?;
                return Ok(None);
            };
            // A trial that cannot be counted might never end.
            let counted = if slots == before { Ok(()) } else { slots.store(&self.store) };
            match counted.and_then(|()| self.mount(slot)) {
                Ok(()) => {
                    self.point(&self.stage.join("slot"), slot.name())?;
                    return Ok(Some(slot));
                }
                Err(error) => {
                    log::error!("{slot} is not used any more: {error:#}");
                    slots.set(slot, Standing::Bad);
                    if let Err(error) = slots.store(&self.store) {
                        log::error!("{error:#}");
                    }
                }
            }
        }
    }

    fn mount(&self, slot: Slot) -> Result<()> {
        let (image, at) = (self.store.join(slot.file()), self.stage.join("slot"));
        self.unmount();
        run(Command::new("mount")
            .args(["-t", "squashfs", "-o", "loop,ro,nodev,nosuid"])
            .arg(&image)
            .arg(&at))?;
        ensure!(at.join("bin/mien").is_file(), "{} holds no bin/mien", image.display());
        Ok(())
    }

    /// Nothing to unmount is no fault.
    fn unmount(&self) {
        let _ = run(Command::new("umount").args(["--quiet", "--lazy"]).arg(self.stage.join("slot")));
    }

    /// `current` leads there; whoever looks sees the old or the new.
    fn point(&self, to: &Path, name: &str) -> Result<()> {
        let beside = self.stage.join("current.new");
        let swap = || -> io::Result<()> {
            let _ = fs::remove_file(&beside);
            symlink(to, &beside)?;
            fs::rename(&beside, self.stage.join("current"))?;
            fs::write(self.stage.join("booted"), name)
        };
        swap().with_context(|| format!("cannot point {} at {}", self.stage.display(), to.display()))
    }
}

fn run(command: &mut Command) -> Result<()> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.output().with_context(|| format!("{name} cannot be started"))?;
    let said = String::from_utf8_lossy(&output.stderr).trim().to_string();
    ensure!(output.status.success(), "{name}: {said}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_that_cannot_be_mounted_leave_the_package() {
        let folder = tempfile::tempdir().unwrap();
        let places = Places { store: folder.path().join("store"), stage: folder.path().join("stage") };
        fs::create_dir(&places.store).unwrap();
        fs::write(places.store.join("a.img"), b"no image").unwrap();
        let mut slots = Slots::default();
        slots.set(Slot::A, Standing::Good);
        slots.prefer(Slot::B);
        slots.store(&places.store).unwrap();
        assert_eq!(places.start().unwrap(), None);
        assert_eq!(fs::read_link(places.stage.join("current")).unwrap(), Path::new("/usr"));
        assert_eq!(places.booted(), None);
        let slots = Slots::load(&places.store);
        assert_eq!((slots.standing(Slot::A), slots.standing(Slot::B)), (Standing::Bad, Standing::Bad));
        assert_eq!(places.start().unwrap(), None, "again, over what is there");
    }
}
