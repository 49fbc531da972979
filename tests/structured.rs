//! Answers in JSON, by a schema, by a skeleton or free: whatever the model writes, they parse.

mod common;

use common::server::{Server, SseEvent};
use serde_json::{Value, json};

const COMPLETIONS: &str = "/v1/completions";

async fn answer(server: &Server, format: &Value, more: &Value) -> Value {
    let mut body = json!({"prompt": "Who?", "response_format": format});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let answer = server.answer(COMPLETIONS, &body).await;
    answer["choices"][0].clone()
}

fn text(choice: &Value) -> &str {
    choice["text"].as_str().unwrap()
}

fn parsed(choice: &Value) -> Value {
    serde_json::from_str(text(choice)).unwrap_or_else(|error| panic!("{error}: {choice}"))
}

async fn refused(server: &Server, body: &Value) -> (u16, Value) {
    let response = server.post(COMPLETIONS, body).await;
    (response.status().as_u16(), response.json::<Value>().await.unwrap()["error"].clone())
}

fn schema(schema: &Value) -> Value {
    json!({"type": "json_schema", "json_schema": {"name": "it", "strict": true, "schema": schema}})
}

fn person() -> Value {
    json!({
        "type": "object", "title": "Person", "additionalProperties": false,
        "properties": {
            "name": {"type": "string", "x-tokens": 9, "description": "of the person"},
            "nick": {"type": ["string", "null"], "maxLength": 2},
            "age": {"type": "integer", "minimum": 0},
            "height": {"type": "number", "x-tokens": 5},
            "mood": {"enum": ["good", "bad", "indifferent"]},
            "odd": {"enum": [1, "one", null]},
            "alive": {"type": "boolean"},
            "home": {"$ref": "#/$defs/place"},
            "pets": {"type": "array", "items": {"type": "boolean"}, "minItems": 2, "maxItems": 2},
            "kind": {"const": "human"},
        },
        "required": ["name", "age"],
        "$defs": {"place": {"type": "object", "properties": {"town": {"type": "string", "x-tokens": 3}}}},
    })
}

#[tokio::test]
async fn an_answer_has_the_shape_of_its_schema_whatever_the_model_writes() {
    let server = Server::toy().await;
    for (seed, temperature) in [(0, 0.0), (1, 1.0), (2, 3.0), (3, 1.5), (4, 0.7)] {
        let more = json!({"seed": seed, "temperature": temperature, "diffusion": {"steps": 12}});
        let choice = answer(&server, &schema(&person()), &more).await;
        let found = parsed(&choice);
        let names: Vec<&String> = found.as_object().unwrap().keys().collect();
        assert_eq!(names, ["name", "nick", "age", "height", "mood", "odd", "alive", "home", "pets", "kind"]);
        assert!(found["name"].is_string() && found["home"]["town"].is_string(), "{found}");
        assert!(found["nick"].as_str().unwrap().chars().count() <= 2, "{found}");
        assert!(found["age"].is_u64() && found["height"].is_number(), "{found}");
        assert!(["good", "bad", "indifferent"].map(Value::from).contains(&found["mood"]), "{found}");
        assert!([json!(1), json!("one"), Value::Null].contains(&found["odd"]), "{found}");
        assert!(
            found["alive"].is_boolean() && found["pets"].as_array().unwrap().iter().all(Value::is_boolean),
            "{found}"
        );
        assert_eq!((&found["kind"], &choice["finish_reason"]), (&json!("human"), &json!("stop")));
        assert_eq!(found["pets"].as_array().unwrap().len(), 2);
    }
}

#[tokio::test]
async fn a_skeletons_blanks_are_filled_by_their_types() {
    let server = Server::toy().await;
    let skeleton = json!({"a": "<string:5>", "b": ["<integer>", "<number:4>", "given", 7, null], "c": "<yes|no>", "d": "<boolean>"});
    let format = json!({"type": "json_skeleton", "skeleton": skeleton});
    let found = parsed(&answer(&server, &format, &json!({})).await);
    assert!(found["a"].is_string() && found["d"].is_boolean() && found["b"][0].is_i64(), "{found}");
    assert_eq!(found["b"].as_array().unwrap()[2..], [json!("given"), json!(7), Value::Null]);
    assert!([json!("yes"), json!("no")].contains(&found["c"]), "{found}");
}

#[tokio::test]
async fn any_object_is_closed_where_it_ends() {
    let server = Server::toy().await;
    for max_tokens in [2, 40] {
        let more = json!({"max_tokens": max_tokens, "diffusion": {"block_length": 8}});
        let choice = answer(&server, &json!({"type": "json_object"}), &more).await;
        assert!(parsed(&choice).is_object(), "{choice}");
        assert_eq!(choice["finish_reason"], "length", "the toy tells stories, not JSON");
    }
}

#[tokio::test]
async fn a_stream_tells_the_same_json() {
    let server = Server::toy().await;
    for format in [schema(&person()), json!({"type": "json_object"})] {
        let body = json!({"prompt": "Who?", "max_tokens": 400, "response_format": format});
        let whole = server.answer(COMPLETIONS, &body).await;
        let mut streamed = body.clone();
        streamed["stream"] = json!(true);
        let events = server.events(COMPLETIONS, &streamed).await;
        let deltas = events.iter().filter(|event| event.data != "[DONE]").map(SseEvent::json);
        let told: String = deltas.map(|chunk| text(&chunk["choices"][0]).to_owned()).collect();
        assert_eq!(told, text(&whole["choices"][0]));
    }
    let body = json!({"messages": [{"role": "user", "content": "Who?"}], "response_format": schema(&person())});
    let chat = server.answer("/v1/chat/completions", &body).await;
    let content = chat["choices"][0]["message"]["content"].as_str().unwrap();
    assert!(serde_json::from_str::<Value>(content).unwrap()["alive"].is_boolean());
}

#[tokio::test]
async fn an_object_with_a_schema_keeps_it() {
    let server = Server::toy().await;
    let format = json!({"type": "json_object", "schema": person()});
    let found = parsed(&answer(&server, &format, &json!({"temperature": 1, "seed": 3})).await);
    assert!(found["age"].is_u64() && found["kind"] == "human", "{found}");
}

#[tokio::test]
async fn what_leaves_nothing_open_is_answered_without_a_pass() {
    let server = Server::toy().await;
    let object = |properties: Value| schema(&json!({"type": "object", "properties": properties}));
    for (format, expected) in [
        (object(json!({})), "{}"),
        (
            object(json!({"a": {"const": 1}, "b": {"enum": ["x"]}, "c": {"enum": [2, 2]}})),
            r#"{"a": 1, "b": "x", "c": 2}"#,
        ),
        (object(json!({"a": {"type": "string", "pattern": "^$"}, "b": {"type": "null"}})), r#"{"a": "", "b": null}"#),
        (object(json!({"a": {"type": "string", "maxLength": 0}})), r#"{"a": ""}"#),
        (schema(&json!({"type": "array", "items": {"const": 1}, "minItems": 2, "maxItems": 2})), "[1, 1]"),
        (schema(&json!({"type": "array", "items": {"type": "string"}, "maxItems": 0})), "[]"),
        (schema(&json!({"const": {"a": [1, "\u{e9}"]}})), r#"{"a":[1,"é"]}"#),
        (json!({"type": "json_skeleton", "skeleton": {"a": 1, "b": "<x|x>"}}), r#"{"a": 1, "b": "x"}"#),
    ] {
        let body = json!({"prompt": "Who?", "n": 2, "logprobs": 1, "response_format": format,
                          "diffusion": {"return_quality": true, "deadline_ms": 60000}});
        let whole = server.answer(COMPLETIONS, &body).await;
        for choice in whole["choices"].as_array().unwrap() {
            assert_eq!((text(choice), &choice["finish_reason"]), (expected, &json!("stop")));
            let logprobs = choice["logprobs"]["token_logprobs"].as_array().unwrap();
            assert!(logprobs.iter().all(Value::is_null) && choice["quality"]["tokens"] == json!([]), "{choice}");
        }
        assert_eq!(whole["usage"], json!({"prompt_tokens": 4, "completion_tokens": 0, "total_tokens": 4}));
        assert_eq!((&whole["diffusion"]["steps"], &whole["diffusion"]["forward_passes"]), (&json!(0), &json!(0)));
        let mut streamed = json!({"prompt": "Who?", "response_format": format, "stream": true});
        streamed["diffusion"] = json!({"stream_edits": true});
        let sent = server.events(COMPLETIONS, &streamed).await;
        let pieces = sent.iter().filter(|event| event.data != "[DONE]").map(SseEvent::json);
        let pieces = pieces.map(|chunk| text(&chunk["choices"][0]).to_owned());
        assert_eq!(pieces.collect::<String>(), expected);
        let chat = json!({"messages": [{"role": "user", "content": "Who?"}], "response_format": format});
        let chat = server.answer("/v1/chat/completions", &chat).await;
        assert_eq!(chat["choices"][0]["message"]["content"], expected);
    }
}

/// Each alternative can be written: a bias for the characters of one decides.
#[tokio::test]
async fn the_model_chooses_between_alternatives() {
    type Case<'a> = (&'a Value, &'a str, fn(&Value) -> bool);
    let server = Server::toy().await;
    let object = |kind: &str, more: &str| {
        let properties = json!({more: {"type": "boolean"}, "kind": {"const": kind}});
        json!({"type": "object", "properties": properties, "required": ["kind", more]})
    };
    let union = |options: Value| schema(&json!({"type": "object", "properties": {"a": {"anyOf": options}}}));
    let kinds = json!([object("cat", "x"), object("dog", "y"), object("eel", "x")]);
    let plain = json!([{"type": "integer"}, {"type": "string"}, {"type": "array", "items": {"type": "boolean"}}]);
    let named = json!([{"type": "object", "properties": {"good": {"type": "boolean"}}},
        {"type": "object", "properties": {"bad": {"type": "boolean"}, "good": {"type": "boolean"}}}]);
    let mixed = json!([{"const": "auto"}, {"enum": [10, 20]}, {"type": "boolean"}, {"type": "null"}]);
    let cases: [Case<'_>; 12] = [
        (&kinds, "cx", |a| a["kind"] == "cat" && a["x"].is_boolean()),
        (&kinds, "dy", |a| a["kind"] == "dog" && a["y"].is_boolean()),
        (&kinds, "ex", |a| a["kind"] == "eel" && a["x"].is_boolean()),
        (&plain, " ", |a| a.is_i64()),
        (&plain, "\"", |a| a.is_string()),
        (&plain, "[", |a| a.is_array()),
        (&named, "go", |a| a["good"].is_boolean() && a["bad"].is_null()),
        (&named, "ba", |a| a["good"].is_boolean() && a["bad"].is_boolean()),
        (&mixed, "\"a", |a| a == "auto"),
        (&mixed, "2", |a| *a == 20),
        (&mixed, "t", |a| *a == true),
        (&mixed, "fa", |a| *a == false),
    ];
    for (options, letters, holds) in cases {
        let bias: serde_json::Map<String, Value> = letters.bytes().map(|byte| (byte.to_string(), json!(100))).collect();
        let more = json!({"logit_bias": bias, "seed": 3});
        let found = parsed(&answer(&server, &union(options.clone()), &more).await);
        assert!(holds(&found["a"]), "{letters:?} {found}");
    }
}

#[tokio::test]
async fn names_and_elements_of_a_set_occur_once() {
    let server = Server::toy().await;
    // whatever is drawn, all elements and all names are alike
    let more = json!({"logit_bias": {u32::from('7').to_string(): 100, u32::from(',').to_string(): 100,
        u32::from('w').to_string(): 50}});
    let properties = json!({
        "set": {"type": "array", "uniqueItems": true, "minItems": 1, "items": {"type": "integer", "x-tokens": 3}},
        "list": {"type": "array", "minItems": 3, "maxItems": 3, "items": {"type": "integer", "x-tokens": 3}},
        "map": {"type": "object", "minProperties": 1, "maxProperties": 3, "additionalProperties": {"type": "boolean"},
                "propertyNames": {"type": "string", "pattern": "^w{2}$"}},
        "rest": {"const": [1]},
    });
    let choice = answer(&server, &schema(&json!({"type": "object", "properties": properties})), &more).await;
    let found = parsed(&choice);
    assert_eq!(found["set"].as_array().unwrap().len(), 1, "{found}");
    assert_eq!(found["list"].as_array().unwrap().len(), 3, "{found}");
    assert_eq!(text(&choice).matches("\"ww\"").count(), 1, "{choice}");
    assert!(found["map"]["ww"].is_boolean() && found["rest"] == json!([1]), "{found}");
}

#[tokio::test]
async fn an_array_without_a_length_has_places_and_ends_where_the_model_says() {
    let server = Server::toy().await;
    let list = |more: Value| {
        let mut list = json!({"type": "array", "items": {"enum": [1, 2]}});
        list.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        schema(&json!({"type": "object", "properties": {"a": list, "b": {"const": "rest"}}}))
    };
    for (more, fewest, most) in [
        (json!({}), 0, 4),
        (json!({"minItems": 2}), 2, 4),
        (json!({"minItems": 6}), 6, 6),
        (json!({"maxItems": 3}), 0, 3),
        (json!({"maxItems": 100}), 0, 16),
        (json!({"minItems": 20, "maxItems": 100}), 20, 20),
    ] {
        for (token, length) in [(b']', fewest), (b',', most)] {
            // a comma is only an alternative after the first element; before it, a space goes on
            let bias =
                json!({"logit_bias": {token.to_string(): 50, b' '.to_string(): if token == b',' { 50 } else { 0 }}});
            let choice = answer(&server, &list(more.clone()), &bias).await;
            let found = parsed(&choice);
            assert_eq!(found["a"].as_array().unwrap().len(), length, "{more} {choice}");
            assert_eq!(found["b"], "rest", "what follows the array is kept: {choice}");
        }
    }
}

#[tokio::test]
async fn what_cannot_be_kept_is_refused_by_name() {
    let server = Server::toy().await;
    let string = |more: Value| {
        let mut string = json!({"type": "string"});
        string.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        schema(&json!({"type": "object", "properties": {"a": string}}))
    };
    let at = "response_format.json_schema.schema.properties.a";
    let cases = [
        (json!({"type": "xml"}), "response_format.type".to_owned(), "given \"xml\"; give \"text\", \"json_object\""),
        (json!({"type": "x".repeat(99)}), "response_format.type".to_owned(), "xxxx…; give \"text\""),
        (json!("json"), "response_format".to_owned(), "given \"json\"; give an object"),
        (json!({"type": "json_schema"}), "response_format.json_schema".to_owned(), "missing"),
        (
            json!({"type": "json_schema", "json_schema": {"name": "a"}}),
            "response_format.json_schema.schema".to_owned(),
            "missing",
        ),
        (
            json!({"type": "json_skeleton", "skeleton": {}, "a": 1}),
            "response_format.a".to_owned(),
            "known are type, skeleton",
        ),
        (json!({"type": "json_skeleton", "skeleton": "<text>"}), "response_format.skeleton".to_owned(), "<string:12>"),
        (
            json!({"type": "json_skeleton", "skeleton": ["<string:0>"]}),
            "response_format.skeleton[0]".to_owned(),
            "tokens from 1",
        ),
        (
            json!({"type": "json_skeleton", "skeleton": "<string:999>"}),
            "response_format".to_owned(),
            "there is room for",
        ),
        (
            string(json!({"contentMediaType": "application/json"})),
            format!("{at}.contentMediaType"),
            "cannot be kept; here only type, minLength, maxLength, pattern, format, contentEncoding, x-tokens can",
        ),
        (
            string(json!({"type": ["string", 3]})),
            format!("{at}.type"),
            "given [\"string\",3]; give object, array, string",
        ),
        (string(json!({"type": "text"})), format!("{at}.type"), "given \"text\"; give object, array, string"),
        (json!({"type": "text", "schema": {}}), "response_format.schema".to_owned(), "known are type"),
        (json!({"type": "json_object", "strict": true}), "response_format.strict".to_owned(), "known are type, schema"),
        (
            json!({"type": "json_schema", "json_schema": {"schema": {}, "nmae": "a"}}),
            "response_format.json_schema.nmae".to_owned(),
            "known are name, description, schema, strict",
        ),
        (
            schema(&json!({"type": "array", "minItems": 4000, "maxItems": 4000,
                           "items": {"type": "string", "x-tokens": 4096}})),
            "response_format".to_owned(),
            "takes at least 4098 cells, and there is room for 200",
        ),
        (string(json!({"maxLength": -1})), format!("{at}.maxLength"), "given -1; give a whole number"),
        (
            schema(&json!({"anyOf": [{"type": "string", "format": "jwt"}, {"type": "null"}]})),
            "response_format.json_schema.schema.anyOf.format".to_owned(),
            "cannot be kept; here only date,",
        ),
        (schema(&json!({"$ref": "#"})), "response_format.json_schema.schema".to_owned(), "nested deeper"),
        (schema(&json!({"$ref": "#/nowhere"})), "response_format.json_schema.schema.$ref".to_owned(), "leads nowhere"),
        (schema(&json!({"enum": []})), "response_format.json_schema.schema.enum".to_owned(), "at least one value"),
        (
            schema(&json!({"type": "object", "required": ["b"]})),
            "response_format.json_schema.schema.required".to_owned(),
            "\"b\" is none of the properties",
        ),
    ];
    for (format, param, words) in cases {
        let body = json!({"prompt": "Who?", "max_tokens": 200, "response_format": format});
        let (status, error) = refused(&server, &body).await;
        assert_eq!((status, error["param"].as_str()), (400, Some(param.as_str())), "{format} {error}");
        assert!(error["message"].as_str().unwrap().contains(words), "{error} lacks {words}");
    }
    for (mut body, param) in [
        (json!({"prompt": "a", "stop": "b"}), "stop"),
        (json!({"prompt": "a", "suffix": "b", "max_tokens": 4}), "response_format"),
    ] {
        body["response_format"] = json!({"type": "json_object"});
        let (status, error) = refused(&server, &body).await;
        assert_eq!((status, &error["param"]), (400, &json!(param)), "{error}");
    }
}
