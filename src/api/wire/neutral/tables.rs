//! The fields that other servers have and that are of no use here. The tables are data: a field is
//! one row. The values that it accepts are those that its server documents as doing nothing.

use super::value::Neutral;
use super::value::Plain::{self, Flag, NoMembers, Number, Word, Words};
use crate::api::wire::guided::{NO_GRAMMAR, NO_REGEX};

const ZERO: &[Plain] = &[Number(0)];
const ONE: &[Plain] = &[Number(1)];
/// No limit.
const MINUS_ONE: &[Plain] = &[Number(-1)];
const OFF: &[Plain] = &[Flag(false)];
const ON: &[Plain] = &[Flag(true)];
const NOTHING: &[Plain] = &[Words(&[]), NoMembers];
const EMPTY: &[Plain] = &[Word(""), Words(&[]), NoMembers];
const NULL: &[Plain] = &[];

const fn only(name: &'static str, values: &'static [Plain]) -> Neutral {
    Neutral { name, values: Some(values), instead: "" }
}

/// A format of answers that is not supported; `instead` says what is.
const fn no_format(name: &'static str, instead: &'static str) -> Neutral {
    Neutral { name, values: Some(EMPTY), instead }
}

const fn ignored(name: &'static str) -> Neutral {
    Neutral { name, values: None, instead: "" }
}

/// Of completions and chat completions.
pub(crate) const COMMON: &[Neutral] = &[
    // OpenAI
    only("store", OFF),
    ignored("user"),
    ignored("metadata"),
    ignored("service_tier"),
    ignored("safety_identifier"),
    ignored("prompt_cache_key"),
    ignored("prompt_cache_retention"),
    ignored("parallel_tool_calls"),
    only("best_of", ONE),
    // vLLM
    only("length_penalty", ONE),
    only("min_tokens", ZERO),
    only("ignore_eos", OFF),
    only("use_beam_search", OFF),
    only("early_stopping", OFF),
    only("skip_special_tokens", ON),
    ignored("spaces_between_special_tokens"),
    only("include_stop_str_in_output", OFF),
    only("truncate_prompt_tokens", NULL),
    ignored("truncation_side"), // of a prompt that is truncated
    only("prompt_logprobs", NULL),
    only("logprob_token_ids", NULL),
    only("return_tokens_as_token_ids", OFF),
    only("return_token_offsets", OFF),
    only("return_prompt_text", OFF),
    ignored("return_mm_kwargs"), // of vLLM's endpoints that only render
    only("allowed_token_ids", NULL),
    only("bad_words", NOTHING),
    only("logits_processors", NOTHING),
    no_format("guided_regex", NO_REGEX),
    no_format("guided_grammar", NO_GRAMMAR),
    ignored("guided_decoding_backend"),
    only("guided_whitespace_pattern", NULL),
    only("prompt_embeds", EMPTY),
    only("media_io_kwargs", NOTHING),
    only("thinking_token_budget", MINUS_ONE),
    only("watermarking", OFF),
    only("repetition_detection", NULL),
    only("routed_experts_prompt_start", ZERO),
    ignored("stream_interval"),
    only("kv_transfer_params", NULL),
    only("ec_transfer_params", NULL),
    only("vllm_xargs", NOTHING),
    ignored("cache_salt"),
    ignored("request_id"),
    ignored("session_id"),
    // SGLang
    ignored("rid"),
    ignored("extra_key"),
    ignored("custom_labels"),
    ignored("ngram_corpus_id"), // for drafts, which change no answer
    only("no_stop_trim", OFF),
    only("stop_regex", EMPTY),
    no_format("structural_tag", NO_GRAMMAR),
    no_format("regex", NO_REGEX),
    no_format("ebnf", NO_GRAMMAR),
    only("lora_path", EMPTY),
    only("input_ids", NOTHING),
    only("session_params", NOTHING),
    only("custom_params", NOTHING),
    only("custom_logit_processor", EMPTY),
    only("images_config", NOTHING),
    only("return_hidden_states", OFF),
    only("return_routed_experts", OFF),
    only("routed_experts_start_len", ZERO),
    only("return_cached_tokens_details", OFF),
    only("return_prompt_token_ids", OFF),
    only("return_meta_info", OFF),
    ignored("data_parallel_rank"), // there is one worker
    ignored("routed_dp_rank"),
    ignored("disagg_prefill_dp_rank"),
    only("bootstrap_host", EMPTY),
    only("bootstrap_port", NOTHING),
    only("bootstrap_room", NOTHING),
    // llama.cpp
    ignored("cache_prompt"), // nothing is cached between requests
    ignored("id_slot"),
    ignored("slot_id"),
    ignored("n_cache_reuse"),
    ignored("n_keep"), // of a context that is shifted
    ignored("n_discard"),
    only("n_predict", MINUS_ONE),
    only("n_indent", ZERO),
    only("n_cmpl", ONE),
    only("n_probs", ZERO),
    only("post_sampling_probs", OFF),
    only("min_keep", ZERO),
    only("typical_p", ONE), // Hugging Face's, too
    only("tfs_z", ONE),
    only("top_n_sigma", &[Number(-1), Number(0)]),
    only("adaptive_target", MINUS_ONE),
    ignored("adaptive_decay"), // the knobs of a rule that is off do nothing
    only("dynatemp_range", ZERO),
    ignored("dynatemp_exponent"),
    only("repeat_penalty", ONE),
    ignored("repeat_last_n"),
    ignored("penalize_nl"),
    only("dry_multiplier", ZERO),
    ignored("dry_base"),
    ignored("dry_allowed_length"),
    ignored("dry_penalty_last_n"),
    ignored("dry_sequence_breakers"),
    only("xtc_probability", ZERO),
    ignored("xtc_threshold"),
    only("mirostat", ZERO),
    ignored("mirostat_tau"),
    ignored("mirostat_eta"),
    only("samplers", SAMPLERS),
    no_format("grammar", NO_GRAMMAR),
    only("grammar_lazy", OFF),
    only("grammar_triggers", NOTHING),
    ignored("preserved_tokens"),
    only("lora", NOTHING),
    only("image_data", NOTHING),
    only("system_prompt", EMPTY),
    only("t_max_predict_ms", &[Number(-1), Number(0)]),
    only("t_max_prompt_ms", &[Number(-1), Number(0)]),
    only("return_tokens", OFF),
    only("return_progress", OFF),
    only("timings_per_token", OFF),
    only("response_fields", NOTHING),
    ignored("sse_ping_interval"),
    ignored("backend_sampling"),
    ignored("speculative.n_max"),
    ignored("speculative.n_min"),
    ignored("speculative.p_min"),
    // Hugging Face's text-generation-inference
    only("adapter_id", EMPTY),
    only("watermark", OFF),
];

/// The orders of llama.cpp's samplers that its documentation gives as defaults.
const SAMPLERS: &[Plain] = &[
    Words(&[]),
    Words(&["dry", "top_k", "typ_p", "top_p", "min_p", "xtc", "temperature"]),
    Words(&["penalties", "dry", "top_k", "typ_p", "top_p", "min_p", "xtc", "temperature"]),
    Words(&["penalties", "dry", "top_n_sigma", "top_k", "typ_p", "top_p", "min_p", "xtc", "temperature"]),
];

/// Of completions alone.
pub(crate) const COMPLETION: &[Neutral] =
    &[only("tools", NOTHING), only("tool_choice", &[Word("none"), Word("auto")]), ignored("add_special_tokens")];

/// Of chat completions alone.
pub(crate) const CHAT: &[Neutral] = &[
    // OpenAI
    only("functions", NOTHING),
    only("function_call", &[Word("none"), Word("auto")]),
    only("top_logprobs", ZERO),
    only("modalities", &[Words(&["text"])]),
    only("audio", NULL),
    only("moderation", NULL),
    only("web_search_options", NULL),
    ignored("prediction"), // it makes OpenAI's answer faster, not another one
    ignored("reasoning_effort"),
    ignored("reasoning"),
    ignored("thinking"),
    ignored("verbosity"),
    // vLLM
    ignored("include_reasoning"),
    only("echo", OFF),
    only("add_special_tokens", OFF),
    only("documents", NOTHING),
    only("chat_template", EMPTY),
    only("mm_processor_kwargs", NOTHING),
    // SGLang
    ignored("separate_reasoning"),
    ignored("stream_reasoning"),
    only("task", NULL),
    only("max_dynamic_patch", NULL),
    only("min_dynamic_patch", NULL),
    only("use_audio_in_video", OFF),
    // llama.cpp
    ignored("reasoning_format"),
    ignored("thinking_forced_open"),
    ignored("parse_tool_calls"),
    only("reasoning_budget", MINUS_ONE),
    only("thinking_budget_tokens", MINUS_ONE),
    // Hugging Face's text-generation-inference
    only("guideline", NULL),
    only("tool_prompt", NULL),
];

/// Of a message: what answers of OpenAI and of other servers have, when they are sent back.
pub(crate) const MESSAGE: &[Neutral] = &[
    ignored("annotations"),
    only("audio", NULL),
    only("function_call", NULL),
    only("images", NOTHING),
    only("prefix", OFF),
    only("tools", NOTHING),
    ignored("parsed"),
    ignored("reasoning"),
    ignored("reasoning_content"),
    ignored("reasoning_details"),
    ignored("thinking_blocks"),
    ignored("provider_specific_fields"),
    ignored("cache_control"),
];

/// Of a call of a tool in a message, and of its function.
pub(crate) const TOOL_CALL: &[Neutral] = &[ignored("index"), ignored("provider_specific_fields")];
pub(crate) const CALLED_FUNCTION: &[Neutral] = &[ignored("parsed_arguments")];

/// Of `/tokenize`.
pub(crate) const TOKENIZE: &[Neutral] = &[
    ignored("add_special_tokens"), // nothing is ever added here
    only("chat_template", EMPTY),
    only("mm_processor_kwargs", NOTHING),
    only("media_io_kwargs", NOTHING),
    ignored("user"),
    // llama.cpp
    ignored("add_special"),
    only("parse_special", OFF),
    only("with_pieces", OFF),
];

/// Of `stream_options`.
pub(crate) const STREAM_OPTIONS: &[Neutral] = &[only("include_obfuscation", OFF), only("continuous_usage_stats", OFF)];
