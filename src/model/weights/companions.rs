//! The files that go with a model's weights: their names, and copies of them. Out of scope: what is
//! in them.

use super::save::{SaveError, save};
use crate::files;
use crate::model::config::strict;
use crate::model::error::LoadError;
use serde_json::json;
use std::path::{Path, PathBuf};
use std::{fs, io};

/// The files beside the weights.
pub(crate) const COMPANIONS: [&str; 6] = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    TOKENIZER_CONFIG,
    "special_tokens_map.json",
    CHAT_TEMPLATE,
];
/// Folders of more chat templates, one `NAME.jinja` each: as transformers saves them now, and
/// earlier.
pub(crate) const TEMPLATE_FOLDERS: [&str; 2] = ["additional_chat_templates", "chat_templates"];

const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
/// The chat template in a file of its own, which wins over the one in [`TOKENIZER_CONFIG`].
pub(crate) const CHAT_TEMPLATE: &str = "chat_template.jinja";

/// Copies the companions that are in `from`.
pub(crate) fn copy_companions(from: &Path, to: &Path) -> Result<(), SaveError> {
    let templates = TEMPLATE_FOLDERS.iter().flat_map(|folder| templates(&from.join(folder)));
    let files = COMPANIONS.iter().map(|name| from.join(name)).filter(|file| files::is_there(file)).chain(templates);
    for file in files {
        let Ok(place) = file.strip_prefix(from) else { continue };
        let place = to.join(place);
        let failed = |cause: io::Error| SaveError::new(&place, &cause);
        fs::create_dir_all(place.parent().unwrap_or(to)).map_err(failed)?;
        save(&place, &files::read(&file, files::TOKENIZER_MAX).map_err(failed)?)?;
    }
    Ok(())
}

/// The templates in a folder, none if there is no such folder.
fn templates(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut files: Vec<PathBuf> =
        entries.filter(|file| file.extension().is_some_and(|extension| extension == "jinja")).collect();
    files.sort();
    files
}

/// The content of `tokenizer_config.json` in `dir`, with the chat templates and special tokens that
/// are in files of their own; `None` if there is none of these files.
pub(crate) fn tokenizer_config(dir: &Path) -> Result<Option<String>, LoadError> {
    let object = |name: &str| {
        let file = dir.join(name);
        if files::is_there(&file) { strict::read(&file).map(|(keys, _)| keys) } else { Ok(serde_json::Map::new()) }
    };
    let mut keys = object("special_tokens_map.json")?;
    keys.extend(object(TOKENIZER_CONFIG)?.into_iter().filter(|(_, value)| !value.is_null()));
    let text = |file: &Path| files::read_text(file).map_err(|cause| LoadError::unreadable(&file.display(), &cause));
    let mut named = Vec::new();
    for file in TEMPLATE_FOLDERS.iter().flat_map(|folder| templates(&dir.join(folder))) {
        let name = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        named.push(json!({"name": name, "template": text(&file)?}));
    }
    let single = dir.join(CHAT_TEMPLATE);
    if files::is_there(&single) {
        named.push(json!({"name": "default", "template": text(&single)?}));
    }
    if !named.is_empty() {
        keys.insert("chat_template".to_owned(), json!(named));
    }
    Ok((!keys.is_empty()).then(|| json!(keys).to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_in_files_of_their_own_go_along() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        assert_eq!(tokenizer_config(from.path()).unwrap(), None);
        let write = |name: &str, text: &str| {
            let file = from.path().join(name);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, text).unwrap();
        };
        write("tokenizer_config.json", r#"{"bos_token": "<s>", "pad_token": null, "chat_template": "old"}"#);
        write("special_tokens_map.json", r#"{"pad_token": "<pad>", "bos_token": "<old>"}"#);
        write("chat_template.jinja", "new");
        write("additional_chat_templates/tool_use.jinja", "with tools");
        write("additional_chat_templates/notes.txt", "not a template");
        copy_companions(from.path(), to.path()).unwrap();
        for dir in [from.path(), to.path()] {
            let config: serde_json::Value = serde_json::from_str(&tokenizer_config(dir).unwrap().unwrap()).unwrap();
            let templates =
                json!([{"name": "tool_use", "template": "with tools"}, {"name": "default", "template": "new"}]);
            assert_eq!(config, json!({"pad_token": "<pad>", "bos_token": "<s>", "chat_template": templates}));
        }
        assert!(!to.path().join("additional_chat_templates/notes.txt").exists());
    }
}
