//! Where a model's files have its chat templates and the names of its special tokens: the rules of
//! transformers. Out of scope: Jinja.

use crate::files;
use crate::text::error::TextError;
use minijinja::Value;
use serde::Deserialize;
use serde_json::Map;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::{fs, io};

/// The name of the template for conversations without tools, and of an only template.
pub(super) const DEFAULT: &str = "default";
/// The name of the template for conversations with tools.
pub(super) const TOOL_USE: &str = "tool_use";

const CONFIG: &str = "tokenizer_config.json";
const TEMPLATE: &str = "chat_template.jinja";
/// Folders of more templates, one `NAME.jinja` each: as transformers saves them now, and earlier.
const FOLDERS: [&str; 2] = ["additional_chat_templates", "chat_templates"];
const SPECIAL_TOKENS: &str = "special_tokens_map.json";

/// The contents of the files that may have chat templates.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::text) struct TemplateFiles {
    /// `tokenizer_config.json`.
    pub(super) tokenizer_config: Option<Vec<u8>>,
    /// `special_tokens_map.json`, for names that the former lacks.
    pub(super) special_tokens_map: Option<Vec<u8>>,
    /// Templates in files of their own, by their names. They replace those of the configuration.
    pub(super) templates: BTreeMap<String, String>,
}

/// Templates and special tokens by their names.
pub(super) struct Source {
    pub(super) templates: BTreeMap<String, String>,
    pub(super) special: BTreeMap<String, Value>,
}

/// A special token, as a string or as an object.
#[derive(Deserialize)]
#[serde(untagged)]
enum SpecialToken {
    Text(String),
    Described { content: String },
}

impl SpecialToken {
    fn text(self) -> String {
        match self {
            Self::Text(content) | Self::Described { content } => content,
        }
    }
}

/// `chat_template` in a configuration.
#[derive(Deserialize)]
#[serde(untagged)]
enum Templates {
    One(String),
    Named(Vec<Named>),
    Map(BTreeMap<String, String>),
}

#[derive(Deserialize)]
struct Named {
    name: String,
    template: String,
}

impl TemplateFiles {
    /// Reads the files of a model directory; those that are not there stay empty.
    ///
    /// # Errors
    /// When a file exists but cannot be read.
    pub(in crate::text) fn read(dir: &Path) -> Result<Self, TextError> {
        let mut templates = BTreeMap::new();
        for folder in FOLDERS {
            for file in names(&dir.join(folder))? {
                if let Some(name) = file.file_name().and_then(|name| name.to_str()?.strip_suffix(".jinja")) {
                    templates.insert(name.to_owned(), text(&file)?.unwrap_or_default());
                }
            }
        }
        templates.extend(text(&dir.join(TEMPLATE))?.map(|template| (DEFAULT.to_owned(), template)));
        let [tokenizer_config, special_tokens_map] = [CONFIG, SPECIAL_TOKENS].map(|name| bytes(&dir.join(name)));
        Ok(Self { tokenizer_config: tokenizer_config?, special_tokens_map: special_tokens_map?, templates })
    }

    /// The file that the templates come from.
    pub(in crate::text) fn name(&self) -> &'static str {
        if self.templates.is_empty() { CONFIG } else { TEMPLATE }
    }

    pub(super) fn source(&self) -> Result<Source, TextError> {
        let object = |json: &Option<Vec<u8>>, name: &str| {
            let json = json.as_deref().unwrap_or(b"{}");
            let wrong = |cause| TextError::Template(format!("{name} is not a JSON object: {cause}"));
            serde_json::from_slice::<Map<_, _>>(json).map_err(wrong)
        };
        let mut config = object(&self.tokenizer_config, CONFIG)?;
        let of_config = match config.remove("chat_template") {
            None | Some(serde_json::Value::Null) => BTreeMap::new(),
            Some(template) => match serde_json::from_value(template) {
                Ok(Templates::One(template)) => BTreeMap::from([(DEFAULT.to_owned(), template)]),
                Ok(Templates::Named(list)) => list.into_iter().map(|named| (named.name, named.template)).collect(),
                Ok(Templates::Map(templates)) => templates,
                Err(_) => {
                    let problem = "chat_template is neither a text nor a list of objects with name and template";
                    return Err(TextError::Template(problem.to_owned()));
                }
            },
        };
        let mut special = object(&self.special_tokens_map, SPECIAL_TOKENS)?;
        special.extend(config.into_iter().filter(|(_, value)| !value.is_null()));
        let special = special.into_iter().filter_map(|(name, value)| variables(&name, value)).flatten();
        let templates = if self.templates.is_empty() { of_config } else { self.templates.clone() };
        Ok(Source { templates, special: special.collect() })
    }
}

/// The variables of a key of the configuration; `None` if it is about something else.
fn variables(key: &str, value: serde_json::Value) -> Option<Vec<(String, Value)>> {
    let token = |value| serde_json::from_value::<SpecialToken>(value).ok().map(SpecialToken::text);
    let tokens = |value| match value {
        serde_json::Value::Array(tokens) => tokens.into_iter().map(token).collect::<Option<Vec<_>>>(),
        _ => None,
    };
    match key {
        "additional_special_tokens" => Some(vec![(key.to_owned(), Value::from(tokens(value)?))]),
        // names that only this model has, or a list without names
        "extra_special_tokens" => match value {
            serde_json::Value::Object(named) => {
                Some(named.into_iter().filter_map(|(name, value)| Some((name, Value::from(token(value)?)))).collect())
            }
            value => Some(vec![(key.to_owned(), Value::from(tokens(value)?))]),
        },
        _ if key.ends_with("_token") => Some(vec![(key.to_owned(), Value::from(token(value)?))]),
        _ => None,
    }
}

/// The files in a folder; none if there is no such folder.
fn names(folder: &Path) -> Result<Vec<PathBuf>, TextError> {
    let failed = |error: &io::Error| TextError::File { file: folder.to_path_buf(), reason: error.to_string() };
    match fs::read_dir(folder) {
        Ok(entries) => entries.map(|entry| entry.map(|entry| entry.path()).map_err(|error| failed(&error))).collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(failed(&error)),
    }
}

fn bytes(file: &Path) -> Result<Option<Vec<u8>>, TextError> {
    match files::read(file, files::CONFIG_MAX) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(TextError::File { file: file.to_path_buf(), reason: error.to_string() }),
    }
}

fn text(file: &Path) -> Result<Option<String>, TextError> {
    let wrong = |_| TextError::File { file: file.to_path_buf(), reason: "is not UTF-8".to_owned() };
    bytes(file)?.map(|bytes| String::from_utf8(bytes).map_err(wrong)).transpose()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::Tokenizer;
    use crate::text::chat_template::ChatTemplate;
    use serde_json::json;

    /// What the templates of these files write for no messages, with and without tools.
    fn rendered(files: &[(&str, &str)]) -> [Result<String, String>; 2] {
        let dir = tempfile::tempdir().unwrap();
        for (name, content) in files {
            let file = dir.path().join(name);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, content).unwrap();
        }
        let chat = ChatTemplate::from_files(&TemplateFiles::read(dir.path()).unwrap()).unwrap().unwrap();
        [vec![], vec![json!({"type": "function"})]].map(|tools| {
            let conversation = crate::text::Conversation { tools, ..Default::default() };
            chat.render(&conversation, false).map_err(|error| error.to_string())
        })
    }

    fn both(text: &str) -> [Result<String, String>; 2] {
        [Ok(text.to_owned()), Ok(text.to_owned())]
    }

    #[test]
    fn a_template_in_a_file_of_its_own_wins() {
        let config = ("tokenizer_config.json", r#"{"bos_token": "<s>", "chat_template": "old {{ bos_token }}"}"#);
        assert_eq!(rendered(&[config]), both("old <s>"));
        assert_eq!(rendered(&[config, ("chat_template.jinja", "new {{ bos_token }}")]), both("new <s>"));
        assert_eq!(rendered(&[("chat_template.jinja", "{{ bos_token is defined }}")]), both("False"));
        for folder in FOLDERS {
            let tools = format!("{folder}/tool_use.jinja");
            let written = rendered(&[config, ("chat_template.jinja", "new"), (&tools, "with {{ tools | length }}")]);
            assert_eq!(written, [Ok("new".to_owned()), Ok("with 1".to_owned())]);
        }
    }

    #[test]
    fn of_several_templates_the_conversation_chooses_one() {
        let named = |names: &[&str]| {
            let templates: Vec<_> = names.iter().map(|name| json!({"name": name, "template": name})).collect();
            json!({ "chat_template": templates }).to_string()
        };
        let config = named(&["rag", "default", "tool_use"]);
        assert_eq!(rendered(&[("tokenizer_config.json", &config)]), [Ok("default".into()), Ok("tool_use".into())]);
        let config = json!({"chat_template": {"default": "d", "other": "{% broken"}}).to_string();
        assert_eq!(rendered(&[("tokenizer_config.json", &config)]), both("d"));
        let config = named(&["rag", "tool_use"]);
        let [without, with] = rendered(&[("tokenizer_config.json", &config)]);
        assert_eq!(with, Ok("tool_use".to_owned()));
        assert!(without.unwrap_err().contains("templates named rag, tool_use, but none named default"));
    }

    #[test]
    fn every_special_token_is_a_variable() {
        let config = json!({
            "bos_token": "<s>", "eos_token": {"__type": "AddedToken", "content": "</s>", "lstrip": false},
            "pad_token": null, "image_token": "<i>", "additional_special_tokens": ["<a>", {"content": "<b>"}],
            "extra_special_tokens": {"boi_token": "<boi>"}, "add_bos_token": true, "model_max_length": 1e30,
            "chat_template": "{{ bos_token ~ eos_token ~ unk_token ~ mask_token ~ image_token ~ boi_token }}\
                {{ additional_special_tokens | join }} {{ pad_token is defined }} {{ add_bos_token is defined }}",
        });
        let config = config.to_string();
        let files = [
            ("tokenizer_config.json", config.as_str()),
            (
                "special_tokens_map.json",
                r#"{"bos_token": "<old>", "unk_token": "<unk>", "mask_token": {"content": "<m>"}}"#,
            ),
        ];
        assert_eq!(rendered(&files), both("<s></s><unk><m><i><boi><a><b> False False"));
    }

    #[test]
    fn a_wrong_file_is_named() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("tokenizer.json"), include_bytes!("../../../models/toy/tokenizer.json")).unwrap();
        for (name, content, message) in [
            ("tokenizer_config.json", "[]", "tokenizer_config.json is not a JSON object"),
            ("tokenizer_config.json", r#"{"chat_template": [{"name": "a"}]}"#, "neither a text nor a list"),
            ("tokenizer_config.json", r#"{"chat_template": "{% for %}"}"#, "the chat template failed"),
            ("chat_template.jinja", "{{ 'a", "the chat template failed"),
        ] {
            fs::write(dir.path().join(name), content).unwrap();
            let error = Tokenizer::from_dir(dir.path()).unwrap_err().to_string();
            assert!(error.contains(&format!("{name}: ")) && error.contains(message), "{error}");
        }
    }
}
