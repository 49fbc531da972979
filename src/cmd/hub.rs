//! Models from the Hugging Face hub: missing files are downloaded into the hub's own cache.
//! Out of scope: the contents of the files, except for the index of shards.

use super::print::say;
use crate::files;
use crate::model::{CHAT_TEMPLATE, COMPANIONS, PRISM_HEAD, SHARD_INDEX, ShardIndex, TEMPLATE_FOLDERS};
use anyhow::{Context, anyhow, bail};
use axum::http::Uri;
use hf_hub::api::Progress;
use hf_hub::api::sync::{ApiBuilder, ApiError, ApiRepo};
use hf_hub::{Cache, CacheRepo, Repo, RepoType};
use std::ffi::{OsStr, OsString};
use std::io::{self, IsTerminal, stderr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use std::{collections::BTreeSet, env};

const CONFIG: &str = "config.json";
const WEIGHTS: &str = "model.safetensors";
/// How often an interrupted download is resumed.
const RETRIES_MAX: usize = 3;

/// The directory of a model: `model_id` itself, or the cache's directory for a model of the hub.
/// `None` when `model_id` is neither a directory nor a name on the hub.
pub(super) fn directory(model_id: &str, revision: &str, token: Option<&str>) -> anyhow::Result<Option<PathBuf>> {
    match Path::new(model_id) {
        dir if dir.is_dir() => Ok(Some(dir.to_owned())),
        _ if is_name(model_id) => fetch(model_id, revision, token).map(Some),
        _ => Ok(None),
    }
}

/// Whether `name` has the form of a name on the hub: owner/model.
fn is_name(name: &str) -> bool {
    let is_word = |word: &str| {
        !word.is_empty()
            && !word.starts_with('.')
            && word.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
    };
    name.split_once('/').is_some_and(|(owner, model)| is_word(owner) && is_word(model))
}

/// Downloads the files of a model that are not in the cache. Returns its directory in the cache.
///
/// `HF_HOME`, `HF_ENDPOINT` and `HF_HUB_OFFLINE` work as in Hugging Face's own programs.
fn fetch(name: &str, revision: &str, token: Option<&str>) -> anyhow::Result<PathBuf> {
    let cache = Cache::new(cache_place(set("HF_HOME"), env::home_dir())?);
    let repo = Repo::with_revision(name.to_owned(), RepoType::Model, revision.to_owned());
    let token = token.map(str::to_owned).or_else(|| cache.token());
    let api = if is_offline() {
        None
    } else {
        let mut api = ApiBuilder::from_cache(cache.clone()).with_token(token).with_retries(RETRIES_MAX);
        if let Some(endpoint) = set("HF_ENDPOINT") {
            api = api.with_endpoint(web_address(&endpoint)?);
        }
        Some(api.build()?.repo(repo.clone()))
    };
    let hub = Hub { name, revision, cache: cache.repo(repo), place: cache.path().clone(), api };
    let was_known = hub.cache.get(CONFIG).is_some();
    let dir = hub.needed(CONFIG)?.parent().context("the cache has no directory for the model")?.to_owned();
    match hub.optional(SHARD_INDEX, was_known)? {
        Some(index) => shards(&index)?.iter().try_for_each(|shard| hub.needed(shard).map(|_| ()))?,
        None => hub.needed(WEIGHTS).map(|_| ())?,
    }
    for companion in COMPANIONS.into_iter().chain([PRISM_HEAD]) {
        hub.optional(companion, was_known)?;
    }
    if hub.cache.get(CHAT_TEMPLATE).is_some() {
        for template in hub.more_templates() {
            hub.optional(&template, was_known)?;
        }
    }
    Ok(dir)
}

fn set(variable: &str) -> Option<OsString> {
    env::var_os(variable).filter(|value| !value.is_empty())
}

/// The directory of the cache, in the directory `HF_HOME` or else in the home directory.
fn cache_place(hf_home: Option<OsString>, home: Option<PathBuf>) -> anyhow::Result<PathBuf> {
    let place = match (hf_home, home.filter(|home| !home.as_os_str().is_empty())) {
        (Some(place), _) => PathBuf::from(place),
        (None, Some(home)) => home.join(".cache/huggingface"),
        (None, None) => bail!("there is no home directory for the cache of models; set HF_HOME to a directory"),
    };
    match place.ancestors().find(|part| part.exists()) {
        Some(part) if !part.is_dir() => {
            bail!(
                "the cache of models is to be in {} (HF_HOME), and {} is a file; set HF_HOME to a directory",
                place.display(),
                part.display()
            )
        }
        Some(_) | None => Ok(place.join("hub")),
    }
}

/// The address of another hub than Hugging Face's.
fn web_address(given: &OsStr) -> anyhow::Result<String> {
    let is_web =
        |uri: &Uri| matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some_and(|it| !it.is_empty());
    let address = given.to_str().filter(|address| address.parse().is_ok_and(|uri| is_web(&uri)));
    let address =
        address.with_context(|| format!("HF_ENDPOINT is {given:?}; give http://HOST or https://HOST, or unset it"))?;
    Ok(address.trim_end_matches('/').to_owned())
}

/// Variables that set a proxy for downloads.
const PROXIES: [&str; 6] = ["ALL_PROXY", "all_proxy", "HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy"];

/// Says which variable sends downloads through a proxy, where one does.
fn through_proxy() -> String {
    let proxy = PROXIES.into_iter().find(|name| set(name).is_some());
    proxy.map(|name| format!(" (through the proxy that {name} names)")).unwrap_or_default()
}

fn is_offline() -> bool {
    env::var("HF_HUB_OFFLINE").is_ok_and(|word| ["1", "true", "yes", "on"].contains(&word.to_lowercase().as_str()))
}

fn shards(index: &Path) -> anyhow::Result<BTreeSet<String>> {
    let text = files::read(index, files::CONFIG_MAX).with_context(|| format!("cannot read {}", index.display()))?;
    let parsed: ShardIndex =
        serde_json::from_slice(&text).with_context(|| format!("{} is no index of shards", index.display()))?;
    Ok(parsed.shards(&index.display().to_string())?)
}

struct Hub<'a> {
    name: &'a str,
    revision: &'a str,
    cache: CacheRepo,
    place: PathBuf,
    /// `None` when offline: only the cache is used.
    api: Option<ApiRepo>,
}

impl Hub<'_> {
    fn needed(&self, file: &str) -> anyhow::Result<PathBuf> {
        let Self { name, revision, place, .. } = self;
        match self.file(file)? {
            Some(path) => Ok(path),
            None if self.api.is_none() => bail!(
                "{file} of {name} is not in the cache {}, and HF_HUB_OFFLINE forbids to fetch it; \
                 unset that, or give a directory",
                place.display()
            ),
            None => bail!("the hub has no {file} for {name} at revision {revision:?}; is the name right?"),
        }
    }

    /// A file that not every model has. If the hub cannot be reached and the model is in the cache,
    /// a file missing there counts as not existing.
    fn optional(&self, file: &str, is_cached: bool) -> anyhow::Result<Option<PathBuf>> {
        match self.file(file) {
            Err(cause) if is_cached => {
                tracing::warn!(file, %cause, "taken not to exist");
                Ok(None)
            }
            found => found,
        }
    }

    /// The files of more chat templates. None where the hub does not list a model's files.
    fn more_templates(&self) -> Vec<String> {
        let is_template = |file: &String| match file.split_once('/') {
            Some((folder, name)) => {
                TEMPLATE_FOLDERS.contains(&folder) && !name.contains(['/', '\\']) && name.ends_with(".jinja")
            }
            None => false,
        };
        match self.api.as_ref().map(ApiRepo::info) {
            Some(Ok(info)) => info.siblings.into_iter().map(|file| file.rfilename).filter(is_template).collect(),
            Some(Err(cause)) => {
                tracing::warn!(%cause, "the hub does not list the model's files; taken to have one chat template");
                Vec::new()
            }
            None => Vec::new(),
        }
    }

    /// The path of a file in the cache, downloaded if needed; `None` when there is no such file.
    fn file(&self, file: &str) -> anyhow::Result<Option<PathBuf>> {
        match (self.cache.get(file), &self.api) {
            (Some(path), _) => Ok(Some(path)),
            (None, None) => Ok(None),
            (None, Some(api)) => match self.download(api, file) {
                Ok(path) => Ok(Some(path)),
                Err(error) => self.explain(file, error),
            },
        }
    }

    /// Downloads a file, with a progress bar on a terminal, and lines elsewhere.
    fn download(&self, api: &ApiRepo, file: &str) -> Result<PathBuf, ApiError> {
        if stderr().is_terminal() {
            return api.download(file);
        }
        api.download_with_progress(file, Lines::new(self.name))
    }

    fn explain(&self, file: &str, error: ApiError) -> anyhow::Result<Option<PathBuf>> {
        let Self { name, place, .. } = self;
        let place = place.display();
        Err(match error {
            ApiError::RequestError(cause) => match *cause {
                ureq::Error::StatusCode(404) => return Ok(None),
                ureq::Error::StatusCode(status @ (401 | 403)) => anyhow!(
                    "the hub does not hand out {name} (status {status}): there is no such model, or it is private or \
                     gated; accept its terms on its page, and give a token with --hf-token or HF_TOKEN"
                ),
                cause => anyhow!(
                    "cannot fetch {file} of {name} from the hub{}: {cause}; give a directory instead, or bring the model into \
                     the cache {place} (HF_HOME) where there is a connection",
                    through_proxy()
                ),
            },
            ApiError::TooManyRetries(cause) => return self.explain(file, *cause),
            ApiError::IoError(cause)
                if matches!(cause.kind(), io::ErrorKind::StorageFull | io::ErrorKind::PermissionDenied) =>
            {
                anyhow!("cannot write {file} of {name} into the cache {place}: {cause}; HF_HOME names another place")
            }
            ApiError::LockAcquisition(_) => {
                anyhow!(
                    "another program is fetching {file} of {name} into the cache {place}; try again when it is done"
                )
            }
            cause => anyhow!(
                "the download of {file} of {name} broke off: {cause}; the same command goes on where it stopped"
            ),
        })
    }
}

/// Time between two lines about a download.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// The progress of a download, as lines on standard error: its begin, its end, and some between.
struct Lines<'a> {
    model: &'a str,
    file: String,
    size: usize,
    received: usize,
    begun: Instant,
    said: Instant,
}

impl<'a> Lines<'a> {
    fn new(model: &'a str) -> Self {
        let now = Instant::now();
        Self { model, file: String::new(), size: 0, received: 0, begun: now, said: now }
    }

    fn say(&self, what: &str) {
        let Self { model, file, size, received, begun, .. } = self;
        let [size, received] = [*size, *received].map(|bytes| bytes as f64 / 1e6);
        let speed = received / begun.elapsed().as_secs_f64().max(0.001);
        say(format_args!("remask: {what} {file} of {model}: {received:.1} of {size:.1} MB, {speed:.1} MB/s"));
    }
}

impl Progress for Lines<'_> {
    fn init(&mut self, size: usize, file: &str) {
        if !self.file.is_empty() {
            return; // called twice for a file, and again when an interrupted download is resumed
        }
        (self.size, self.begun, self.said) = (size, Instant::now(), Instant::now());
        file.clone_into(&mut self.file);
        let megabytes = size as f64 / 1e6;
        say(format_args!("remask: downloading {file} of {}, {megabytes:.1} MB", self.model));
    }

    fn update(&mut self, bytes: usize) {
        self.received += bytes;
        if self.said.elapsed() >= LINE_EVERY {
            self.said = Instant::now();
            self.say("downloading");
        }
    }

    fn finish(&mut self) {
        self.say("downloaded");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cache_is_a_directory_or_is_told_not_to_be() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        let place = |hf_home: Option<&Path>, home: Option<&Path>| {
            let (hf_home, home) = (hf_home.map(|path| path.as_os_str().to_owned()), home.map(Path::to_owned));
            cache_place(hf_home, home).map_err(|error| error.to_string())
        };
        assert_eq!(place(Some(&dir.path().join("new")), None), Ok(dir.path().join("new/hub")));
        assert_eq!(place(None, Some(dir.path())), Ok(dir.path().join(".cache/huggingface/hub")));
        for wrong in [place(Some(&file), None), place(Some(&file.join("x")), None), place(None, Some(&file))] {
            let error = wrong.unwrap_err();
            assert!(error.contains(&format!("{} is a file; set HF_HOME", file.display())), "{error}");
        }
        for home in [None, Some(Path::new(""))] {
            assert!(place(None, home).unwrap_err().contains("there is no home directory"));
        }
    }

    #[test]
    fn another_hub_has_a_web_address() {
        let read = |word: &str| web_address(word.as_ref()).map_err(|error| error.to_string());
        assert_eq!(read("https://hub.example.org/"), Ok("https://hub.example.org".to_owned()));
        assert_eq!(read("http://127.0.0.1:9/mirror"), Ok("http://127.0.0.1:9/mirror".to_owned()));
        for wrong in ["garbage", "ftp://x", "http://", "http://[x", "https:// x", "huggingface.co"] {
            let error = read(wrong).unwrap_err();
            assert_eq!(error, format!("HF_ENDPOINT is {wrong:?}; give http://HOST or https://HOST, or unset it"));
        }
    }

    #[test]
    fn a_name_is_an_owner_and_a_model() {
        assert!(["GSAI-ML/LLaDA-8B-Instruct", "a/b_c.1"].into_iter().all(is_name));
        assert!(
            ["sudoku", "./model", "../a", "a/b/c", "a/", "/a", "a/.b", "a b/c", "a/b\n"].iter().all(|no| !is_name(no))
        );
    }
}
