//! A disk that a test can fill.

#![allow(dead_code, reason = "each test program compiles this module and uses a part of it")]

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A small disk of its own, until this is dropped.
pub struct Disk(PathBuf);

impl Disk {
    /// Of so many MB, at a place that belongs to the same user as `beside`; `None` where nobody lets us mount.
    pub fn mount(beside: &Path, name: &str, megabytes: u32) -> Option<Self> {
        let path = beside.with_file_name(name);
        let owner = std::fs::metadata(beside).expect("it is there");
        std::fs::create_dir(&path).expect("the folder can be written");
        let options = format!("size={megabytes}m,mode=0700,uid={},gid={}", owner.uid(), owner.gid());
        let mount = ["mount", "-t", "tmpfs", "-o", &options, "tmpfs", path.to_str().expect("a plain name")];
        let mounts = |words: &[&str]| {
            let status = Command::new(words[0]).args(&words[1..]).stderr(Stdio::null()).status();
            status.is_ok_and(|status| status.success())
        };
        let disk = Self(path.clone());
        (mounts(&mount) || mounts(&[&["sudo", "-n"], &mount[..]].concat())).then_some(disk)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Leaves room for nothing more, until `empty`.
    pub fn fill(&self) {
        let mut filler = File::create(self.filler()).expect("a file fits");
        while filler.write(&[0; 4096]).is_ok_and(|written| written > 0) {}
    }

    pub fn empty(&self) {
        std::fs::remove_file(self.filler()).expect("it was filled");
    }

    fn filler(&self) -> PathBuf {
        self.0.join("filler")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        for words in [&["umount", "-l"][..], &["sudo", "-n", "umount", "-l"]] {
            let unmounted = Command::new(words[0]).args(&words[1..]).arg(&self.0).stderr(Stdio::null()).status();
            if unmounted.is_ok_and(|status| status.success()) {
                break;
            }
        }
        let _ = std::fs::remove_dir(&self.0);
    }
}
