//! Tells when a file of the configuration has changed. Folders are watched, not files: an editor puts a new file in the
//! old one's place, and Kubernetes swaps a symbolic link on the way to it.

use std::collections::{BTreeSet, HashSet};
use std::ffi::OsString;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use notify::event::{AccessKind, AccessMode};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};

/// Several changes are one when no more than this is between them: a new file, and the link that leads to it.
const QUIET: Duration = Duration::from_millis(100);
/// One that goes on and on is told of all the same.
const UNREST_MAX: Duration = Duration::from_secs(2);
/// Symbolic links on the way to one file; Linux follows as many (`path_resolution(7)`).
const LINKS_MAX: usize = 40;

/// What is being watched.
pub(super) struct Watch {
    watcher: RecommendedWatcher,
    folders: BTreeSet<PathBuf>,
    /// What in these folders leads to a file.
    entries: Arc<Mutex<HashSet<PathBuf>>>,
    changed: Arc<Notify>,
}

impl Watch {
    /// Begins to watch, nothing yet. `changed` is told when a file has, or may have, changed; then [`Self::follow`] should
    /// be called again.
    pub(super) fn start(changed: Arc<Notify>) -> notify::Result<Self> {
        let entries = Arc::<Mutex<HashSet<PathBuf>>>::default();
        let (theirs, tell) = (entries.clone(), changed.clone());
        let watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
            if concerns(&event, &theirs.lock().unwrap_or_else(PoisonError::into_inner)) {
                tell.notify_one();
            }
        })?;
        Ok(Self { watcher, folders: BTreeSet::new(), entries, changed })
    }

    /// From now on these are the entries that lead to the files; see [`entries_of`]. `true`: a folder was not watched
    /// before, and what is in it may have changed since it was read.
    pub(super) fn follow(&mut self, entries: HashSet<PathBuf>) -> bool {
        let folders: BTreeSet<PathBuf> =
            entries.iter().filter_map(|entry| entry.parent().map(Path::to_owned)).collect();
        *self.entries.lock().unwrap_or_else(PoisonError::into_inner) = entries;
        for gone in self.folders.difference(&folders) {
            // It may be gone already.
            let _ = self.watcher.unwatch(gone);
        }
        // Also those that are watched: one that was replaced is another.
        let (watched, lost): (BTreeSet<_>, BTreeSet<_>) = folders
            .into_iter()
            .partition(|folder| self.watcher.watch(folder, RecursiveMode::NonRecursive).is_ok());
        for folder in &lost {
            tracing::warn!(
                folder = %folder.display(),
                "a folder of the configuration cannot be watched: ask for reloads by SIGHUP or `POST /reload`"
            );
        }
        let is_new = !watched.is_subset(&self.folders);
        self.folders = watched;
        is_new
    }

    /// Has the files read again.
    pub(super) fn read_again(&self) {
        self.changed.notify_one();
    }
}

/// Whether one of these entries has, or may have, changed.
fn concerns(event: &notify::Result<Event>, entries: &HashSet<PathBuf>) -> bool {
    match event {
        Ok(event) => {
            let named = event.paths.iter().any(|path| entries.contains(path));
            event.need_rescan() || (may_change(event.kind) && named)
        }
        // Something may have been missed.
        Err(_) => true,
    }
}

/// Reading is an event, too.
const fn may_change(kind: EventKind) -> bool {
    match kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => true,
        EventKind::Access(_) => false,
        EventKind::Any
        | EventKind::Create(_)
        | EventKind::Modify(_)
        | EventKind::Remove(_)
        | EventKind::Other => true,
    }
}

/// Waits for a change, and for it to be over.
pub(super) async fn settled(changed: &Notify) {
    changed.notified().await;
    let end = Instant::now() + UNREST_MAX;
    while timeout(QUIET, changed.notified()).await.is_ok() && Instant::now() < end {}
}

/// Everything that, replaced, makes these paths lead to other files: each symbolic link on the way, and the file.
pub(super) fn entries_of(files: &[PathBuf]) -> HashSet<PathBuf> {
    let here = std::env::current_dir().unwrap_or_default();
    let mut entries = HashSet::new();
    for file in files {
        follow_links(&here.join(file), &mut entries);
    }
    entries
}

fn follow_links(path: &Path, entries: &mut HashSet<PathBuf>) {
    // What is left of the path, the next part last.
    let mut rest: Vec<OsString> = parts(path);
    let (mut at, mut links) = (PathBuf::from("/"), 0);
    while let Some(part) = rest.pop() {
        if part == ".." {
            at.pop();
            continue;
        }
        let entry = at.join(part);
        match std::fs::read_link(&entry) {
            Ok(target) if links < LINKS_MAX => {
                links += 1;
                if target.is_absolute() {
                    at = PathBuf::from("/");
                }
                rest.extend(parts(&target));
                entries.insert(entry);
            }
            _ => at = entry,
        }
    }
    // Whether it is there or not: it may come.
    entries.insert(at);
}

/// The parts of a path, the first one last.
fn parts(path: &Path) -> Vec<OsString> {
    let part = |part: Component<'_>| match part {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    };
    path.components().rev().filter_map(part).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use notify::event::{CreateKind, ModifyKind};

    use super::*;

    /// An empty folder for the test of this name alone.
    fn folder(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("pusher-bridge-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).unwrap();
        folder.canonicalize().unwrap()
    }

    fn of(path: &Path, within: &Path) -> Vec<String> {
        let entries = entries_of(&[path.to_owned()]);
        let inner = entries.iter().filter_map(|entry| entry.strip_prefix(within).ok());
        let mut inner: Vec<String> = inner.map(|entry| entry.display().to_string()).collect();
        inner.sort();
        inner
    }

    #[test]
    fn all_links_on_the_way_to_a_file_lead_to_it() {
        let folder = folder("links");
        fs::create_dir_all(folder.join("..1/deep")).unwrap();
        fs::create_dir_all(folder.join("other")).unwrap();
        fs::write(folder.join("..1/routes.toml"), "").unwrap();
        symlink("..1", folder.join("..data")).unwrap();
        symlink("..data/routes.toml", folder.join("routes.toml")).unwrap();
        symlink(folder.join("other/../routes.toml"), folder.join("far")).unwrap();
        symlink("loop", folder.join("loop")).unwrap();
        let seen = |name: &str| of(&folder.join(name), &folder);
        assert_eq!(seen("routes.toml"), ["..1/routes.toml", "..data", "routes.toml"]);
        assert_eq!(seen("far"), ["..1/routes.toml", "..data", "far", "routes.toml"]);
        assert_eq!(seen("other/./../..1/routes.toml"), ["..1/routes.toml"]);
        assert_eq!(seen("absent/file"), ["absent/file"], "it may come");
        assert!(seen("loop").contains(&"loop".to_owned()));
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn neighbours_concern_nobody_and_what_was_missed_may() {
        let entries = HashSet::from([PathBuf::from("/a/routes.toml")]);
        let event = |path: &str| Ok(Event::new(EventKind::Create(CreateKind::Any)).add_path(path.into()));
        assert!(concerns(&event("/a/routes.toml"), &entries));
        assert!(!concerns(&event("/a/routes.toml.swp"), &entries));
        let missed = Event::new(EventKind::Other).set_flag(notify::event::Flag::Rescan);
        assert!(concerns(&Ok(missed), &entries) && concerns(&Err(notify::Error::generic("x")), &entries));
    }

    #[test]
    fn that_a_file_was_read_is_no_change() {
        use AccessKind::{Close, Open, Read};
        for read in [Read, Open(AccessMode::Any), Close(AccessMode::Read)] {
            assert!(!may_change(EventKind::Access(read)));
        }
        assert!(may_change(EventKind::Access(Close(AccessMode::Write))));
        assert!(
            may_change(EventKind::Create(CreateKind::Any)) && may_change(EventKind::Modify(ModifyKind::Any))
        );
    }

    #[tokio::test(start_paused = true)]
    async fn changes_in_a_row_are_one_and_one_that_never_ends_is_told_all_the_same() {
        let changed = Arc::new(Notify::new());
        let theirs = changed.clone();
        let restless = tokio::spawn(async move {
            for _ in 0..5 {
                theirs.notify_one();
                tokio::time::sleep(QUIET / 2).await;
            }
        });
        settled(&changed).await;
        assert!(restless.is_finished());
        let theirs = changed.clone();
        let restless = tokio::spawn(async move {
            loop {
                theirs.notify_one();
                tokio::time::sleep(QUIET / 2).await;
            }
        });
        let began = Instant::now();
        settled(&changed).await;
        assert!(began.elapsed() >= UNREST_MAX && began.elapsed() < UNREST_MAX * 2);
        restless.abort();
    }

    #[tokio::test]
    async fn a_file_that_is_written_replaced_or_led_to_elsewhere_is_told_of() {
        let folder = folder("watch");
        let file = folder.join("routes.toml");
        fs::create_dir_all(folder.join("1")).unwrap();
        fs::create_dir_all(folder.join("2")).unwrap();
        for n in ["1", "2"] {
            fs::write(folder.join(n).join("routes.toml"), n).unwrap();
        }
        symlink("1", folder.join("data")).unwrap();
        symlink("data/routes.toml", &file).unwrap();
        let changed = Arc::new(Notify::new());
        let mut watch = Watch::start(changed.clone()).unwrap();
        assert!(watch.follow(entries_of(std::slice::from_ref(&file))), "they were not watched before");
        fs::write(folder.join("1/routes.toml"), "other").unwrap();
        settled(&changed).await;
        symlink("2", folder.join("data.new")).unwrap();
        fs::rename(folder.join("data.new"), folder.join("data")).unwrap();
        settled(&changed).await;
        assert!(watch.follow(entries_of(std::slice::from_ref(&file))), "another folder");
        fs::write(folder.join("2/new"), "x").unwrap();
        fs::rename(folder.join("2/new"), folder.join("2/routes.toml")).unwrap();
        settled(&changed).await;
        fs::remove_dir_all(folder).unwrap();
    }
}
