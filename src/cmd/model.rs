//! The flags that choose a model, and the models embedded in the binary.

use super::{
    environment::UsageError,
    hub,
    print::say,
    words::{bytes, hub_token, one_of},
};
use crate::files;
use crate::model::{
    CudaGraphs, Denoiser, Device, Devices, GgufVocabulary, LoadOptions, Precision, Source, Tokens, Toy, is_gguf,
    load_with,
};
use crate::text::{Lists, Tokenizer};
use anyhow::{Context, bail};
use clap::builder::{NonEmptyStringValueParser, TypedValueParser};
use clap::{Args, ValueEnum};
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub(super) const SUDOKU: Source = Source::Embedded {
    config: include_bytes!("../../models/sudoku/config.json"),
    generation_config: include_bytes!("../../models/sudoku/generation_config.json"),
    weights: include_bytes!("../../models/sudoku/model.safetensors"),
    prism_head: Some(include_bytes!("../../models/sudoku/prism_head.safetensors")),
};
pub(super) const SUDOKU_TOKENIZER: &[u8] = include_bytes!("../../models/sudoku/tokenizer.json");
const SUDOKU_TOKENIZER_CONFIG: &[u8] = include_bytes!("../../models/sudoku/tokenizer_config.json");
const TOY_TOKENIZER: &[u8] = include_bytes!("../../models/toy/tokenizer.json");
const TOY_TOKENIZER_CONFIG: &[u8] = include_bytes!("../../models/toy/tokenizer_config.json");

const DEFAULT_REVISION: &str = "main";

/// The heading of these flags in `--help`.
pub(super) const HEADING: &str = "Model";

/// Flags that choose a model.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = HEADING)]
pub(super) struct ModelArgs {
    /// The model: a name on the Hugging Face hub, a directory (config.json, model.safetensors,
    /// tokenizer.json), a GGUF file, or one of the built-in models `sudoku` and `toy`. `serve`
    /// takes several: given again, or separated by commas
    #[arg(long, env = "REMASK_MODEL_ID", default_value = "sudoku", value_parser = NonEmptyStringValueParser::new().try_map(model_ids), value_name = "OWNER/NAME|DIR|FILE.gguf|sudoku|toy")]
    model_id: Vec<String>,
    /// Branch, tag or commit of a model from the hub
    #[arg(long, env = "REMASK_REVISION", default_value = DEFAULT_REVISION, value_parser = NonEmptyStringValueParser::new())]
    revision: String,
    /// Hugging Face token for private or gated models [default: the one stored by `hf auth login`]
    #[arg(long, env = "HF_TOKEN", hide_env_values = true, value_name = "TOKEN", value_parser = hub_token())]
    hf_token: Option<String>,
    /// `auto` reads the weights; `dummy` makes random ones and a head from config.json, for
    /// benchmarks
    #[arg(long, env = "REMASK_LOAD_FORMAT", default_value = "auto")]
    load_format: LoadFormat,
    /// PRISM quality head or checkpoint [default: the head in the model's directory or file]
    #[arg(long, env = "REMASK_PRISM_HEAD", value_name = "FILE")]
    prism_head: Option<PathBuf>,
    /// LoRA adapter in PEFT's layout to merge into the weights
    #[arg(long, env = "REMASK_ADAPTER", value_name = "DIR")]
    adapter: Option<PathBuf>,
    /// Take a quality head that was made for other weights, with a warning
    #[arg(long, env = "REMASK_ALLOW_FOREIGN_HEAD")]
    allow_foreign_head: bool,
    /// Most memory for keys and values that requests with a cache keep between passes, as 2GiB.
    /// With 0 they compute them anew in each pass, which costs more than no cache [default: a
    /// quarter of the device's free memory]
    #[arg(long, env = "REMASK_CACHE_BYTES", value_name = "BYTES", value_parser = bytes())]
    cache_bytes: Option<u64>,
    /// Data type to compute in. `auto` is bf16 on a GPU and f32 on a CPU
    #[arg(long, env = "REMASK_DTYPE", default_value = "auto", value_parser = one_of(DTYPES))]
    dtype: Precision,
    /// On a GPU, record passes whose shape comes often as CUDA graphs
    #[arg(long, env = "REMASK_CUDA_GRAPHS", value_name = "WHEN", default_value = "off", value_parser = one_of(CUDA_GRAPHS))]
    cuda_graphs: CudaGraphs,
    /// Device to compute on: `auto`, `cpu`, `cuda` or `cuda:N`. `serve` also takes a list, such as
    /// `cuda:0,1`, and serves from a copy of the model on each
    #[arg(long, env = "REMASK_DEVICE", default_value = "auto", value_name = "DEVICE,..")]
    device: Devices,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum LoadFormat {
    Auto,
    Dummy,
}

const CUDA_GRAPHS: [(&str, CudaGraphs, &str); 2] = [("off", CudaGraphs::Off, ""), ("auto", CudaGraphs::Auto, "")];

pub(super) const DTYPES: [(&str, Precision, &str); 3] =
    [("auto", Precision::Auto, ""), ("f32", Precision::F32, ""), ("bf16", Precision::Bf16, "")];

#[derive(Debug)]
pub(super) struct Loaded {
    pub(super) model: Box<dyn Denoiser>,
    pub(super) tokenizer: Option<Arc<Tokenizer>>,
    /// The default name in requests and answers.
    pub(super) name: String,
}

/// Where a model is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    BuiltIn,
    Gguf,
    Directory,
    Hub,
}

/// Where the model of this name is; on the hub where there is no such file or directory.
pub(super) fn place(model_id: &str) -> Place {
    let path = Path::new(model_id);
    match model_id {
        "sudoku" | "toy" => Place::BuiltIn,
        _ if path.is_dir() => Place::Directory,
        _ if is_gguf(path) => Place::Gguf,
        _ => Place::Hub,
    }
}

fn model_ids(given: String) -> Result<String, &'static str> {
    let has_empty = split(&given).iter().any(|model| model.is_empty());
    if has_empty { Err("one of the names is empty; give single commas between several models") } else { Ok(given) }
}

/// The models that one value of `--model-id` names, separated by commas. A path may contain commas.
pub(super) fn split(model_ids: &str) -> Vec<&str> {
    if Path::new(model_ids).exists() { vec![model_ids] } else { model_ids.split(',').map(str::trim).collect() }
}

impl ModelArgs {
    /// All models; one at least.
    fn model_ids(&self) -> impl Iterator<Item = &str> {
        self.model_id.iter().flat_map(|given| split(given))
    }

    /// Whether the memory for keys and values is given, and more than none.
    pub(super) fn has_cache_bytes(&self) -> bool {
        self.cache_bytes.is_some_and(|bytes| bytes > 0)
    }

    /// The only model.
    ///
    /// # Errors
    /// When there are several.
    pub(super) fn only(&self) -> anyhow::Result<&str> {
        let mut models = self.model_ids();
        match (models.next(), models.count()) {
            (Some(model), 0) => Ok(model),
            (_, others) => Err(anyhow::Error::from(UsageError(format!(
                "--model-id names {} models, which only `remask serve` uses; give one",
                others + 1
            )))),
        }
    }

    /// The flags of each model by itself.
    ///
    /// # Errors
    /// When there are several, and a flag that is for one.
    pub(super) fn each(&self) -> anyhow::Result<Vec<Self>> {
        let each: Vec<Self> =
            self.model_ids().map(|model| Self { model_id: vec![model.to_owned()], ..self.clone() }).collect();
        let of_one = [
            ("--prism-head", self.prism_head.is_some()),
            ("--adapter", self.adapter.is_some()),
            ("--revision", self.revision != DEFAULT_REVISION),
        ];
        if each.len() > 1
            && let Some((flag, _)) = of_one.into_iter().find(|(_, is_given)| *is_given)
        {
            let advice = "put its head and adapter into the model's directory, or serve it alone";
            return Err(anyhow::Error::from(UsageError(format!(
                "{flag} is for one model, and --model-id names {}; {advice}",
                each.len()
            ))));
        }
        Ok(each)
    }

    /// The default name of the only model in requests and answers: the last part of its id.
    pub(super) fn name(&self) -> anyhow::Result<String> {
        let (model, path) = (self.only()?, Path::new(self.only()?));
        let name = if place(model) == Place::Gguf { path.file_stem() } else { path.file_name() };
        Ok(name.map_or_else(|| model.to_owned(), |name| name.to_string_lossy().into_owned()))
    }

    /// The only device.
    pub(super) fn device(&self) -> Option<Device> {
        if let [device] = self.device.all() { Some(*device) } else { None }
    }

    /// Loads the model onto the only device; a model of the hub is downloaded first if it is not in
    /// the cache.
    pub(super) fn load(&self) -> anyhow::Result<Loaded> {
        match self.device.all() {
            [device] => self.load_on(*device),
            devices => Err(anyhow::Error::from(UsageError(format!(
                "--device {} names {} devices, which only `remask serve` uses; give one",
                self.device,
                devices.len()
            )))),
        }
    }

    /// The devices on which a copy of the model is to be loaded.
    pub(super) fn devices(&self) -> &[Device] {
        self.device.all()
    }

    /// The same as [`Self::load`], onto a given device.
    pub(super) fn load_on(&self, device: Device) -> anyhow::Result<Loaded> {
        let (device, why) = device.choose();
        if let Some(why) = why {
            say(format_args!("remask: computing on the CPU, for {why}"));
        }
        let (model, tokenizer) = match self.only()? {
            model @ ("sudoku" | "toy") if self.prism_head.is_some() || self.adapter.is_some() => {
                bail!("--prism-head and --adapter go with a model directory; {model} is built in as it is")
            }
            "sudoku" => (
                load_with(&SUDOKU, device, self.options())?,
                Some(Tokenizer::from_texts(SUDOKU_TOKENIZER, Some(SUDOKU_TOKENIZER_CONFIG))?),
            ),
            "toy" => (
                Box::new(Toy::new()) as Box<dyn Denoiser>,
                Some(Tokenizer::from_texts(TOY_TOKENIZER, Some(TOY_TOKENIZER_CONFIG))?),
            ),
            file if place(file) == Place::Gguf => {
                self.load_gguf(file, device).with_context(|| format!("cannot load the model {file:?}"))?
            }
            dir => self.load_dir(dir, device).with_context(|| format!("cannot load the model {dir:?}"))?,
        };
        Ok(Loaded { model, tokenizer: tokenizer.map(Arc::new), name: self.name()? })
    }

    const fn options(&self) -> LoadOptions {
        LoadOptions {
            precision: self.dtype,
            cuda_graphs: self.cuda_graphs,
            allow_foreign_head: self.allow_foreign_head,
            cache_bytes: self.cache_bytes,
        }
    }

    fn load_gguf(&self, file: &str, device: Device) -> anyhow::Result<(Box<dyn Denoiser>, Option<Tokenizer>)> {
        if self.adapter.is_some() {
            bail!("--adapter is folded into whole weights: give it to `remask quantize` when the GGUF file is made");
        }
        if self.load_format == LoadFormat::Dummy {
            bail!(
                "--load-format dummy makes up the weights of a directory's config.json; a GGUF file is read as it is"
            );
        }
        let file = PathBuf::from(file);
        let tokenizer = gguf_tokenizer(&file)?;
        let source = Source::Gguf { file, prism_head: self.prism_head.clone() };
        Ok((load_with(&source, device, self.options())?, tokenizer))
    }

    fn load_dir(&self, model: &str, device: Device) -> anyhow::Result<(Box<dyn Denoiser>, Option<Tokenizer>)> {
        let Some(dir) = hub::directory(model, &self.revision, self.hf_token.as_deref())? else {
            let what =
                if Path::new(model).exists() { "it is a file, and no GGUF file" } else { "there is no such directory" };
            bail!(
                "{what}; give a directory with a config.json, a GGUF file, a model of the hub as owner/name, or `sudoku` or `toy`"
            )
        };
        let tokenizer = Tokenizer::from_dir(&dir)?;
        let (prism_head, adapter) = (self.prism_head.clone(), self.adapter.clone());
        let source = match self.load_format {
            LoadFormat::Auto => Source::Directory { dir, prism_head, adapter },
            LoadFormat::Dummy if prism_head.is_some() || adapter.is_some() => {
                bail!("--prism-head and --adapter are files of weights, which --load-format dummy does not read")
            }
            LoadFormat::Dummy => Source::DummyDirectory { dir, seed: 0 },
        };
        Ok((load_with(&source, device, self.options())?, tokenizer))
    }
}

/// The tokenizer of a GGUF file: the one in it, or the one beside it.
pub(super) fn gguf_tokenizer(file: &Path) -> anyhow::Result<Option<Tokenizer>> {
    let (tokens, config) = GgufVocabulary::read(file)?.map(|read| (read.tokens, read.tokenizer_config)).unzip();
    let config = config.flatten();
    let config = config.as_deref().map(str::as_bytes);
    let beside = file.with_file_name("tokenizer.json");
    let tokenizer = match &tokens {
        Some(Tokens::Whole(json)) => Tokenizer::from_texts(json.as_bytes(), config)?,
        _ if files::is_there(&beside) => Tokenizer::from_texts(&files::read(&beside, files::TOKENIZER_MAX)?, config)?,
        Some(Tokens::Parts { words, special, merges, cut }) => {
            Tokenizer::from_lists(&Lists { words, special, merges, cut }, config)?
        }
        None => return Ok(None),
    };
    Ok(Some(tokenizer))
}
