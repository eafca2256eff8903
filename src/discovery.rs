//! The thread that looks at the list of `discovery.file`, every second and by content.
//!
//! It always runs, follows the live snapshot, and sleeps where no list is named. A list that is wrong
//! changes nothing and is logged once; half a list is a wrong one, as no bracket closes it. What a
//! good one says is news for the main thread (`live.rs`), as is what `resolver.rs` finds.
//!
//! Read next: `config/discovery.rs`, how a list is read and what its backends are.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{JoinHandle, park_timeout};
use std::time::Duration;

use crate::config::{ConfigError, News, list_bytes};
use crate::live::{Follower, Live};
use crate::net::thread;
use crate::pool::settings::BackendSettings;

/// Between two looks at the list.
const INTERVAL: Duration = Duration::from_secs(1);
/// Where there is no list; a new snapshot wakes the thread.
const LONG: Duration = Duration::from_secs(3600);

/// The running thread. Dropping this tells it to end.
#[derive(Debug)]
pub(crate) struct Discovery {
    thread: JoinHandle<()>,
    stop: Arc<AtomicBool>,
}

impl Discovery {
    /// Starts the thread.
    pub(crate) fn start(live: &Arc<Live>) -> io::Result<Discovery> {
        let stop = Arc::new(AtomicBool::new(false));
        let (live, is_over) = (Arc::clone(live), Arc::clone(&stop));
        let thread = thread::start("discovery", move || {
            let mut follower = Follower::parking(Arc::clone(&live));
            let mut list = List::default();
            while !is_over.load(Ordering::Acquire) {
                // With the names of another configuration the same list may be wrong, or right.
                let is_another = follower.look();
                let Some(file) = follower.config.discovery.file() else {
                    list = List::default();
                    park_timeout(LONG);
                    continue;
                };
                let read = |bytes| {
                    let config = &follower.config;
                    config.discovery.list(file, bytes, config.proxy.mode)
                };
                match list.look(file, list_bytes(file), is_another, read) {
                    Some(Ok(backends)) => {
                        let news = News::List(file.to_owned(), backends);
                        follower.live().tell(news);
                    }
                    Some(Err(error)) => log::error!("discovery: nothing has changed: {error}"),
                    None => {}
                }
                park_timeout(INTERVAL);
            }
        })?;
        Ok(Discovery { thread, stop })
    }
}

impl Drop for Discovery {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        self.thread.thread().unpark();
    }
}

/// What was seen of a list.
#[derive(Debug, Default)]
struct List {
    file: PathBuf,
    /// A hash of its content, if it could be read.
    content: Option<u64>,
    /// What was last said of it, if it was wrong.
    said: Option<ConfigError>,
}

impl List {
    /// Looks at the list that is in `file` now, and returns what is new: entries, or an error. The
    /// same content is nothing new, unless the configuration around it `is_another`.
    fn look(
        &mut self,
        file: &Path,
        content: Result<Vec<u8>, ConfigError>,
        is_another: bool,
        read: impl FnOnce(Vec<u8>) -> Result<Vec<BackendSettings>, ConfigError>,
    ) -> Option<Result<Vec<BackendSettings>, ConfigError>> {
        let hash = content.as_ref().ok().map(|bytes| {
            let mut hasher = DefaultHasher::new();
            bytes.hash(&mut hasher);
            hasher.finish()
        });
        let is_same = self.file == file && self.content == hash;
        if is_same && !is_another && hash.is_some() {
            return None;
        }
        if !is_same {
            *self = List {
                file: file.to_owned(),
                content: hash,
                said: self.said.take().filter(|_| hash.is_none()),
            };
        }
        match content.and_then(read) {
            Ok(backends) => {
                self.said = None;
                Some(Ok(backends))
            }
            Err(error) if self.said.as_ref() == Some(&error) => None,
            Err(error) => {
                self.said = Some(error.clone());
                Some(Err(error))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn file() -> &'static Path {
        Path::new("list.json")
    }

    /// Looks at a list with this text, beside a configuration with a backend `own`; returns the
    /// names, or what is wrong.
    fn look(list: &mut List, text: &str, is_another: bool) -> Option<Result<String, String>> {
        let text = text.as_bytes().to_vec();
        look_at(list, Ok(text), is_another)
    }

    fn look_at(
        list: &mut List,
        content: Result<Vec<u8>, ConfigError>,
        is_another: bool,
    ) -> Option<Result<String, String>> {
        let config =
            r#"{"proxy": {"port": 1}, "backends": [{"url": "http://own", "name": "own"}]}"#;
        let config = Config::from_text("c.json", config).unwrap();
        let read = |bytes| config.discovery.list(file(), bytes, config.proxy.mode);
        let looked = list.look(file(), content, is_another, read)?;
        let names = |list: Vec<BackendSettings>| {
            let names: Vec<String> = list.into_iter().map(|each| each.name).collect();
            names.join(" ")
        };
        Some(looked.map(names).map_err(|error| error.to_string()))
    }

    const ONE: &str = r#"[{"url": "http://a"}]"#;
    const TWO: &str = r#"[{"url": "http://a"}, {"url": "http://b"}]"#;
    const OWN: &str = r#"[{"url": "http://a", "name": "own"}]"#;

    #[test]
    fn a_list_is_news_when_its_content_changes() {
        let mut list = List::default();
        assert_eq!(look(&mut list, ONE, false), Some(Ok("a:80".to_owned())));
        assert_eq!(look(&mut list, ONE, false), None);
        assert_eq!(
            look(&mut list, TWO, false),
            Some(Ok("a:80 b:80".to_owned()))
        );
        assert_eq!(look(&mut list, TWO, false), None);
        assert_eq!(look(&mut list, ONE, false), Some(Ok("a:80".to_owned())));
        assert_eq!(look(&mut list, ONE, true), Some(Ok("a:80".to_owned())));
    }

    #[test]
    fn what_is_wrong_is_said_once_until_the_content_changes() {
        let mut list = List::default();
        look(&mut list, ONE, false);
        for (text, said) in [
            (
                &TWO[..30],
                "list.json:1:1: not valid JSON: the file ends before the [ of line 1, column 1 is closed; add ]",
            ),
            (
                "",
                r#"list.json: is empty; the least is [{"url":"http://127.0.0.1:8081"}]"#,
            ),
            (
                "[]",
                r#"list.json:1:1: the list is empty; must be a list of at least one backend such as [{"url":"http://127.0.0.1:8081"}]"#,
            ),
            (
                "{}",
                r#"list.json:1:1: the list is an object; must be a list of at least one backend such as [{"url":"http://127.0.0.1:8081"}]"#,
            ),
            (
                OWN,
                r#"list.json:1:30: [0].name is "own", which a backend of the configuration has; give each backend a name of its own"#,
            ),
        ] {
            let said = said.to_owned();
            let first = look(&mut list, text, false).unwrap().unwrap_err();
            if text.len() == 30 {
                assert!(first.starts_with("list.json:1:"), "{first}");
            } else {
                assert_eq!(first, said);
            }
            assert_eq!(look(&mut list, text, false), None, "{text}");
            assert_eq!(look(&mut list, text, true), None, "{text}");
        }
        // The same mistake in another content is another one.
        let longer = format!("{OWN} ");
        assert!(look(&mut list, &longer, false).unwrap().is_err());
        assert_eq!(
            look(&mut list, TWO, false),
            Some(Ok("a:80 b:80".to_owned()))
        );
        assert!(look(&mut list, OWN, false).unwrap().is_err());
    }

    #[test]
    fn a_list_that_cannot_be_read_is_said_once_and_read_again_when_it_is_back() {
        let mut list = List::default();
        look(&mut list, ONE, false);
        let gone = || Err(ConfigError::of_file("list.json", "cannot be read", ""));
        assert!(look_at(&mut list, gone(), false).unwrap().is_err());
        assert_eq!(look_at(&mut list, gone(), false), None);
        assert_eq!(look_at(&mut list, gone(), true), None);
        assert_eq!(look(&mut list, ONE, false), Some(Ok("a:80".to_owned())));
        assert!(look_at(&mut list, gone(), false).unwrap().is_err());
    }
}
