//! Low-rank adapters (LoRA, arXiv 2106.09685) in PEFT's layout: W' = W + scale B A, folded into the
//! weights once, when they are loaded. Out of scope: where tensors come from.

use crate::model::config::strict::{self, Rules};
use crate::model::error::LoadError;
use candle_core::{DType, Result, Tensor};
use fancy_regex::Regex;
use serde::Deserialize;
use serde_json::{Value, json};
use std::path::Path;

/// What an adapter's file of tensors does not contain. Modules are named as in the checkpoint,
/// without `.weight`.
#[derive(Clone, Debug)]
pub(crate) struct LoraConfig {
    /// Rank and alpha of every module; `None` takes the ranks of the file and alpha = rank.
    sizes: Option<Sizes>,
    targets: Modules,
    excluded: Modules,
}

#[derive(Clone, Debug)]
struct Sizes {
    rank: usize,
    alpha: f64,
    /// Whether alpha is divided by the root of the rank (arXiv 2312.03732).
    is_stabilised: bool,
    /// Modules with another rank or alpha.
    ranks: Vec<(Regex, usize)>,
    alphas: Vec<(Regex, f64)>,
}

/// Names of modules as PEFT matches them.
#[derive(Clone, Debug)]
enum Modules {
    None,
    All,
    /// Whole names, or their ends after a point.
    Names(Vec<String>),
    /// A pattern of whole names.
    Pattern(Regex),
}

#[derive(Deserialize)]
struct Keys {
    r: usize,
    lora_alpha: Option<f64>,
    target_modules: Option<Names>,
    exclude_modules: Option<Names>,
    #[serde(default)]
    use_rslora: bool,
    rank_pattern: Option<serde_json::Map<String, Value>>,
    alpha_pattern: Option<serde_json::Map<String, Value>>,
}

/// A list of names, or a pattern over full names.
#[derive(Deserialize)]
#[serde(untagged)]
enum Names {
    List(Vec<String>),
    Pattern(String),
}

/// Keys that are read, then keys about training and bookkeeping, and settings of switches.
const KNOWN: &str = "\
    r lora_alpha target_modules exclude_modules use_rslora rank_pattern alpha_pattern \
    auto_mapping base_model_name_or_path corda_config ensure_weight_tying eva_config inference_mode \
    layers_pattern layers_to_transform loftq_config lora_dropout lora_ga_config megatron_config megatron_core \
    peft_version qalora_group_size revision runtime_config task_type velora_config";

/// Switches of PEFT that make something else of an adapter than W + scale B A.
const CHANGES: [(&str, &str); 12] = [
    ("use_dora", "DoRA scales every row of the adapted weight"),
    ("use_qalora", "QA-LoRA pools the inputs of A"),
    ("use_bdlora", "A or B is block-diagonal"),
    ("lora_bias", "B has a bias"),
    ("modules_to_save", "whole modules are replaced"),
    ("trainable_token_indices", "rows of the embedding are replaced"),
    ("target_parameters", "parameters of other modules are adapted"),
    ("layer_replication", "blocks are repeated"),
    ("alora_invocation_tokens", "the adapter begins at some tokens only"),
    ("arrow_config", "several adapters are mixed for each token"),
    ("kasa_config", "the base weights are changed, too"),
    ("monteclora_config", "adapters are drawn at random"),
];

impl LoraConfig {
    /// The published PRISM recipe trains with alpha = r, and its checkpoints do not contain alpha.
    pub(crate) const PUBLISHED: Self = Self { sizes: None, targets: Modules::All, excluded: Modules::None };

    /// Reads an `adapter_config.json`.
    pub(crate) fn read(path: &Path) -> std::result::Result<Self, LoadError> {
        let (keys, file) = strict::read(path)?;
        let initialisations = ["gaussian", "orthogonal", "eva"].map(Value::from);
        let initialisations = [&[json!(true), json!(false), Value::Null][..], &initialisations].concat();
        let optional: [(_, &[Value]); 3] = [
            ("bias", &[json!("none"), Value::Null]),
            ("fan_in_fan_out", &[json!(false), Value::Null]),
            // other initialisations change the base weights too
            ("init_lora_weights", &initialisations),
        ];
        let rules =
            Rules { required: &[("peft_type", "LORA")], optional: &optional, changes: &[&CHANGES], known: KNOWN };
        let switches = |keys: &serde_json::Map<String, Value>| {
            keys.keys()
                .find(|key| key.starts_with("use_") && !rules.names(key) && !strict::is_off(&keys[*key]))
                .cloned()
        };
        if let Some(key) = switches(&keys) {
            return Err(LoadError::unsupported(&file, &key, keys[&key].to_string(), "false"));
        }
        let keys: Keys = rules.take(keys, &file)?;
        strict::check_sizes(&[("r", keys.r, strict::WIDTH_MAX)], &file)?;
        let wrong = |key: &str, problem: &str| LoadError::malformed(&file, format!("has a wrong `{key}`: {problem}"));
        let mut ranks = Vec::new();
        for (name, rank) in keys.rank_pattern.into_iter().flatten() {
            let rank = rank.as_u64().and_then(|rank| usize::try_from(rank).ok()).filter(|rank| *rank > 0);
            let rank = rank.ok_or_else(|| wrong("rank_pattern", "a rank is a whole number from 1"))?;
            ranks.push((end_of_name(&name).map_err(|cause| wrong("rank_pattern", &cause))?, rank));
        }
        let mut alphas = Vec::new();
        for (name, alpha) in keys.alpha_pattern.into_iter().flatten() {
            let alpha = alpha.as_f64().ok_or_else(|| wrong("alpha_pattern", "an alpha is a number"))?;
            alphas.push((end_of_name(&name).map_err(|cause| wrong("alpha_pattern", &cause))?, alpha));
        }
        let modules = |key: &str, names: Option<Names>| Modules::of(names).map_err(|cause| wrong(key, &cause));
        Ok(Self {
            sizes: Some(Sizes {
                rank: keys.r,
                alpha: keys.lora_alpha.unwrap_or(8.0), // PEFT's default
                is_stabilised: keys.use_rslora,
                ranks,
                alphas,
            }),
            targets: modules("target_modules", keys.target_modules)?.or(Modules::All),
            excluded: modules("exclude_modules", keys.exclude_modules)?,
        })
    }

    /// Rows of A and columns of B of a module; `None` takes those of the file.
    pub(crate) fn rank(&self, module: &str) -> Option<usize> {
        let Sizes { rank, ranks, .. } = self.sizes.as_ref()?;
        Some(of_module(ranks, module).unwrap_or(*rank))
    }

    /// Factor of B A of a module; the general one for an unknown module.
    pub(crate) fn scale(&self, module: &str) -> f64 {
        let Some(Sizes { rank, alpha, is_stabilised, ranks, alphas }) = &self.sizes else { return 1.0 };
        let rank = of_module(ranks, module).unwrap_or(*rank) as f64;
        of_module(alphas, module).unwrap_or(*alpha) / if *is_stabilised { rank.sqrt() } else { rank }
    }

    /// Whether the configuration lets a module be adapted.
    pub(crate) fn adapts(&self, module: &str) -> bool {
        self.targets.contains(module) && !self.excluded.contains(module)
    }

    /// The names of targets that none of the adapted modules has.
    pub(crate) fn unused(&self, adapted: &[&str]) -> Vec<&str> {
        let Modules::Names(names) = &self.targets else { return Vec::new() };
        let is_unused = |name: &&str| !adapted.iter().any(|module| has_name(module, name));
        names.iter().map(String::as_str).filter(is_unused).collect()
    }
}

impl Modules {
    fn of(names: Option<Names>) -> std::result::Result<Self, String> {
        Ok(match names {
            None => Self::None,
            Some(Names::List(names)) if names.is_empty() => Self::None,
            Some(Names::List(names)) => Self::Names(names),
            Some(Names::Pattern(pattern)) if pattern.is_empty() => Self::None,
            Some(Names::Pattern(pattern)) if pattern.eq_ignore_ascii_case("all-linear") => Self::All,
            Some(Names::Pattern(pattern)) => Self::Pattern(regex(&format!("^(?:{pattern})$"))?),
        })
    }

    fn or(self, other: Self) -> Self {
        if matches!(self, Self::None) { other } else { self }
    }

    fn contains(&self, module: &str) -> bool {
        match self {
            Self::None => false,
            Self::All => true,
            Self::Names(names) => names.iter().any(|name| has_name(module, name)),
            Self::Pattern(pattern) => pattern.is_match(module).unwrap_or(false),
        }
    }
}

/// Whether a module has this name, or its name ends in it after a point.
fn has_name(module: &str, name: &str) -> bool {
    module.strip_suffix(name).is_some_and(|before| before.is_empty() || before.ends_with('.'))
}

/// A pattern of names that end in `name`, as PEFT reads the keys of its patterns.
fn end_of_name(name: &str) -> std::result::Result<Regex, String> {
    regex(&format!("^(?:.*\\.)?(?:{name})$"))
}

fn regex(pattern: &str) -> std::result::Result<Regex, String> {
    Regex::new(pattern).map_err(|cause| cause.to_string())
}

/// The value of the first pattern that the module matches.
fn of_module<T: Copy>(patterns: &[(Regex, T)], module: &str) -> Option<T> {
    let mut matching = patterns.iter().filter(|(pattern, _)| pattern.is_match(module).unwrap_or(false));
    matching.next().map(|(_, value)| *value)
}

/// W + scale B A in f32: `weight` (out, in), `a` (rank, in), `b` (out, rank).
pub(crate) fn fold(weight: &Tensor, a: &Tensor, b: &Tensor, scale: f64) -> Result<Tensor> {
    let [weight, a, b] = [weight, a, b].map(|tensor| tensor.to_dtype(DType::F32));
    weight? + b?.matmul(&a?)?.affine(scale, 0.0)? // (out, in)
}

#[cfg(test)]
mod tests {
    use super::*;

    const Q: &str = "model.transformer.blocks.0.q_proj";
    const OUT: &str = "model.transformer.blocks.11.attn_out";

    fn read(mut config: Value) -> std::result::Result<LoraConfig, String> {
        let defaults = json!({"peft_type": "LORA", "r": 8, "lora_alpha": 16, "target_modules": ["q_proj"]});
        for (key, value) in defaults.as_object().unwrap() {
            config.as_object_mut().unwrap().entry(key).or_insert(value.clone());
        }
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("adapter_config.json");
        std::fs::write(&file, config.to_string()).unwrap();
        LoraConfig::read(&file).map_err(|error| error.to_string())
    }

    #[test]
    fn modules_are_matched_as_peft_matches_them() {
        for (targets, excluded, adapts) in [
            (json!(["q_proj"]), json!(null), [true, false]),
            (json!(["proj", "attn_out"]), json!([]), [false, true]),
            (json!(["transformer.blocks.0.q_proj", "attn_out"]), json!(["11.attn_out"]), [true, false]),
            (json!([Q]), json!(""), [true, false]),
            (json!("all-linear"), json!("model.*q_proj"), [false, true]),
            (json!(r".*\.blocks\.(?!0\.)\d+\..*"), json!(null), [false, true]),
            (json!("q_proj"), json!(null), [false, false]),
            (json!(null), json!(null), [true, true]),
        ] {
            let config = read(json!({"target_modules": targets, "exclude_modules": excluded})).unwrap();
            assert_eq!([Q, OUT].map(|module| config.adapts(module)), adapts, "{targets} {excluded}");
        }
        let config = read(json!({"target_modules": ["q_proj", "o_proj", "blocks.3.q_proj"]})).unwrap();
        assert_eq!(config.unused(&[Q, OUT]), ["o_proj", "blocks.3.q_proj"]);
        assert!(LoraConfig::PUBLISHED.unused(&[]).is_empty());
    }

    #[test]
    fn ranks_and_alphas_may_differ_by_module() {
        let of = |more| read(more).map(|config| [Q, OUT].map(|module| (config.rank(module), config.scale(module))));
        assert_eq!(of(json!({})), Ok([(Some(8), 2.0); 2]));
        assert_eq!(of(json!({"use_rslora": true, "r": 16})), Ok([(Some(16), 4.0); 2]));
        let patterns = json!({"rank_pattern": {"q_proj": 4}, "alpha_pattern": {r"blocks\.\d+\.attn_out": 4.0, "x": 1}});
        assert_eq!(of(patterns), Ok([(Some(4), 4.0), (Some(8), 0.5)]));
        let anchored = json!({"rank_pattern": {"^model.transformer.blocks.0.q_proj": 2, "proj": 1}});
        assert_eq!(of(anchored), Ok([(Some(2), 8.0), (Some(8), 2.0)]));
        assert!(of(json!({"rank_pattern": {"q_proj": 0}})).unwrap_err().contains("wrong `rank_pattern`"));
        assert!(of(json!({"alpha_pattern": {"(": 1}})).unwrap_err().contains("wrong `alpha_pattern`"));
        assert_eq!((LoraConfig::PUBLISHED.rank(Q), LoraConfig::PUBLISHED.scale(Q)), (None, 1.0));
    }

    #[test]
    fn only_what_changes_the_computation_is_refused() {
        for more in [
            json!({"use_qalora": false, "qalora_group_size": 16, "use_dora": false, "runtime_config": {"x": 1}}),
            json!({"loftq_config": {"loftq_bits": 4}, "eva_config": {"rho": 2.0}, "init_lora_weights": "eva"}),
            json!({"use_something_new": false, "something_new_size": 3, "lora_bias": false, "arrow_config": null}),
            json!({"modules_to_save": [], "trainable_token_indices": null, "ensure_weight_tying": true}),
        ] {
            assert!(read(more.clone()).is_ok(), "{more}");
        }
        for (key, value) in [
            ("use_dora", json!(true)),
            ("use_qalora", json!(true)),
            ("use_something_new", json!(true)),
            ("modules_to_save", json!(["wte"])),
            ("lora_bias", json!(true)),
            ("bias", json!("lora_only")),
            ("fan_in_fan_out", json!(true)),
            ("init_lora_weights", json!("pissa_niter_16")),
            ("layer_replication", json!([[0, 2]])),
            ("target_parameters", json!(["experts"])),
        ] {
            let error = read(json!({ key: value })).unwrap_err();
            assert!(error.contains(&format!("adapter_config.json: `{key}` is {value}, supported is")), "{error}");
        }
    }
}
