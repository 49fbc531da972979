//! Answers of the endpoints that do not run the model.

use super::policies::Policies;
use crate::api::schema;
use crate::api::state::services::{Service, Services};
use crate::api::state::under_way::Progress;
use crate::engine::Handle;
use serde::Serialize;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use utoipa::ToSchema;

pub(crate) const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What this server is.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Root {
    pub(crate) name: &'static str,
    pub(crate) version: &'static str,
    /// Methods and paths.
    pub(crate) endpoints: &'static [String],
}

/// The version of this server.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Version {
    pub(crate) version: &'static str,
}

/// The status in one word.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Status {
    pub(crate) status: &'static str,
}

/// A request that is under way or ended less than a minute ago.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct RequestStatus {
    pub(crate) id: String,
    pub(crate) object: &'static str,
    /// When it arrived, in seconds since 1970.
    pub(crate) created: u64,
    pub(crate) status: Progress,
}

/// A cancelled request.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Cancelled {
    pub(crate) id: String,
    pub(crate) object: &'static str,
    pub(crate) cancelled: bool,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Tokenized {
    pub(crate) count: usize,
    /// Cells of a canvas at most.
    pub(crate) max_model_len: usize,
    pub(crate) tokens: Vec<u32>,
    /// Null unless requested.
    #[schema(required)]
    pub(crate) token_strs: Option<Vec<String>>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Detokenized {
    pub(crate) prompt: String,
}

/// The models that are served. The first one answers requests that name none.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ModelList {
    /// Always `list`.
    object: &'static str,
    data: Vec<Model>,
}

impl ModelList {
    pub(crate) fn new(services: &Services) -> Self {
        Self { object: "list", data: services.all().iter().map(|service| Model::new(service)).collect() }
    }
}

/// A model in OpenAI's shape, with facts about diffusion.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Model {
    id: String,
    /// Always `model`.
    object: &'static str,
    /// When it was loaded, in seconds since 1970.
    created: u64,
    owned_by: &'static str,
    /// Tokens of prompt and answer together at most, as vLLM says it: cells of a canvas.
    max_model_len: usize,
    diffusion: ModelFacts,
}

#[derive(Debug, Serialize, ToSchema)]
struct ModelFacts {
    family: String,
    vocabulary: u32,
    /// Cells of a canvas at most, prompt included.
    canvas_limit: usize,
    has_quality_head: bool,
    /// What a cache is to it: `none` (it keeps no keys and values), `approximate`, or `exact`, as
    /// those of finished blocks are in a block-causal model.
    caches: &'static str,
    adapters_folded: bool,
    /// Numbers the forward pass is computed in.
    dtype: String,
    /// Numbers most weights are held in.
    weights: String,
    /// Where it is computed, as `cpu`, or on several devices `cuda:0,cuda:1`.
    device: String,
    parameters: u64,
    /// What requests may choose for `unmasking`, `remasking` and `cache`.
    policies: Policies,
    /// Endpoints and fields of requests that the model refuses, each with the reason in words that
    /// follow its name.
    refused: BTreeMap<&'static str, &'static str>,
    /// What each name means that requests may give as `preset`: fields of the `diffusion` object.
    #[schema(schema_with = schema::presets)]
    presets: Map<String, Value>,
}

impl Model {
    pub(crate) fn new(service: &Service) -> Self {
        let (spec, presets) = (service.handle.spec(), service.handle.presets().0.iter());
        Self {
            id: service.name.clone(),
            object: "model",
            created: service.created,
            owned_by: "remask",
            max_model_len: service.handle.canvas_max(),
            diffusion: ModelFacts {
                family: spec.family.clone(),
                vocabulary: spec.vocabulary,
                canvas_limit: service.handle.canvas_max(),
                has_quality_head: spec.has_quality,
                caches: spec.keeping.name(),
                adapters_folded: spec.adapters_folded,
                dtype: spec.dtype.clone(),
                weights: spec.weights.clone(),
                device: spec.device.clone(),
                parameters: spec.parameters,
                policies: Policies::all(&service.handle),
                refused: refused(&service.handle),
                presets: presets.map(|(name, preset)| (name.clone(), preset.text.clone().into())).collect(),
            },
        }
    }
}

/// What no request to the model can use, and why.
fn refused(handle: &Handle) -> BTreeMap<&'static str, &'static str> {
    let judging = ["/v1/repair", "diffusion.proofreading", "diffusion.return_quality"];
    let judging = judging.into_iter().zip(std::iter::repeat(handle.refusal_to_judge()));
    let all = judging.chain([("/v1/chat/completions", handle.refusal_to_chat())]);
    all.filter_map(|(what, why)| Some((what, why?))).collect()
}
