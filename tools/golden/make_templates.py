#!/usr/bin/env python3
"""Goldens of chat templates: what transformers 5.23.0 (Jinja2 3.1.6, MarkupSafe 3.0.4, Python 3.11) renders.

Writes tests/golden/templates/constructs.json (each case of template_constructs.txt over one set of variables) and
models.json (each file of chat_templates/, written for this project in the manner of popular chat models, over every
conversation below). A result is [text, generation spans in bytes] or, where the reference raises, null. Variables stand
in the files as strings that hold JSON. The clock stands at 2025-07-24 13:05:09. No random numbers."""
import datetime
import json
import logging
import pathlib
import warnings

warnings.simplefilter("ignore")
logging.disable(logging.WARNING)
from transformers.utils import chat_template_utils as reference  # noqa: E402

HERE = pathlib.Path(__file__).resolve().parent
OUT = HERE.parents[1] / "tests/golden/templates"


class FixedClock(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return cls(2025, 7, 24, 13, 5, 9)


reference.datetime = FixedClock

VARIABLES = {
    "messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo é"}],
    "x": 5, "s": "héllo World", "l": [3, 1, 2], "d": {"b": 1, "a": [1, 2.5, None, True]}, "bos_token": "<s>",
    "dd": {"items": 1, "get": 2, "x y": 3, "1": 4, "nested": {"a": {"b": "deep"}}},
}


def tool(name, description, properties, required, **more):
    return {"type": "function", "function": {"name": name, "description": description, "parameters": {
        "type": "object", "properties": properties, "required": required}, **more}}


TOOLS = [
    tool("get_weather", "Weather \"now\" in a city", {
        "city": {"type": "string", "description": "Name, like Zürich"},
        "unit": {"type": "string", "enum": ["celsius", "fahrenheit"], "default": "celsius"}}, ["city"]),
    tool("search", "Finds <pages> & papers", {
        "queries": {"type": "array", "items": {"type": "string"}}, "limit": {"type": "integer", "default": 10, "nullable": True},
        "filter": {"type": "object", "properties": {"year": {"type": "number"}, "open": {"type": "boolean"}}},
        "kind": {"type": ["string", "null"], "description": "  any kind "}}, ["queries"], **{"return": {"type": "array", "items": {"type": "string"}}}),
    tool("now", "The time", {}, []),
]


def call(name, arguments, ident="abc123XYZ"):
    return {"id": ident, "type": "function", "function": {"name": name, "arguments": arguments}}


SYSTEM = {"role": "system", "content": "You are terse."}
USER, ANSWER = {"role": "user", "content": "What is 2+2?"}, {"role": "assistant", "content": "4"}
ASK = {"role": "user", "content": "Weather in Zürich?"}
CALLS = {"role": "assistant", "content": None, "tool_calls": [call("get_weather", {"city": "Zürich", "unit": "celsius"})]}
RESULT = {"role": "tool", "name": "get_weather", "tool_call_id": "abc123XYZ", "content": "{\"temp\": 21.5}"}

CONVERSATIONS = {
    "one_turn": {"messages": [USER], "add_generation_prompt": True},
    "answered": {"messages": [USER, ANSWER]},
    "system": {"messages": [SYSTEM, USER, ANSWER, {"role": "user", "content": "And 3+3?"}], "add_generation_prompt": True},
    "only_system": {"messages": [SYSTEM]},
    "empty_list": {"messages": []},
    "empty_content": {"messages": [{"role": "system", "content": ""}, {"role": "user", "content": ""}, {"role": "assistant", "content": ""}]},
    "whitespace": {"messages": [{"role": "user", "content": "  leading\n\n\nlines \t"}, {"role": "assistant", "content": "\n\n trailing \r\n"}]},
    "unicode": {"messages": [{"role": "user", "content": "Grüße 你好 😀 ẞ é ‏עברית"}, {"role": "assistant", "content": "नमस्ते 👩‍👩‍👧 \u200d…"}],
                "add_generation_prompt": True},
    "special_text": {"messages": [{"role": "user", "content": "<|im_end|> </s> [INST] {{ x }} {% raw %} \"quoted\" 'single' \\n \x00\x7f <tag> & more"}]},
    "wrong_order": {"messages": [ANSWER, USER]},
    "two_users": {"messages": [USER, USER, ANSWER]},
    "unknown_role": {"messages": [USER, {"role": "critic", "content": "Hm."}]},
    "developer": {"messages": [{"role": "developer", "content": "Use metric units."}, USER], "add_generation_prompt": True, "reasoning_effort": "high"},
    "thinking": {"messages": [USER, {"role": "assistant", "content": "4", "reasoning_content": "Two and two."}, {"role": "user", "content": "Sure?"},
                              {"role": "assistant", "content": "<think>\nCount again.\n</think>\n\nYes."}], "enable_thinking": True},
    "thinking_alias": {"messages": [USER, {"role": "assistant", "content": "4", "thinking": "Add them."}], "enable_thinking": False},
    "no_thinking": {"messages": [{"role": "system", "content": "Be quick. /no_think"}, USER], "enable_thinking": False, "add_generation_prompt": True},
    "tools": {"messages": [SYSTEM, ASK], "tools": TOOLS, "add_generation_prompt": True},
    "tools_no_system": {"messages": [ASK], "tools": TOOLS[:1], "tools_in_user_message": False},
    "tool_round": {"messages": [ASK, CALLS, RESULT, {"role": "assistant", "content": "21.5 °C."}, {"role": "user", "content": "Thanks"}],
                   "tools": TOOLS, "add_generation_prompt": True},
    "tool_open": {"messages": [ASK, CALLS, RESULT], "tools": TOOLS[:2], "add_generation_prompt": True},
    "two_calls": {"messages": [ASK, {"role": "assistant", "content": "Let me look.", "tool_calls": [
        call("get_weather", {"city": "Bern"}), call("search", {"queries": ["a", "b"], "limit": None, "filter": {"open": True}}, "def456UVW")]},
        RESULT, {"role": "tool", "tool_call_id": "def456UVW", "content": "[]"}]},
    "string_arguments": {"messages": [ASK, {"role": "assistant", "content": "", "tool_calls": [call("get_weather", "{\"city\": \"Genève\"}")]}], "tools": TOOLS[2:]},
    "documents": {"messages": [SYSTEM, USER], "documents": [{"title": "Sums", "text": "2+2 is 4."}, {"title": "Zahlen", "doc_id": 7, "text": "Vier."}],
                  "citation_mode": "Accurate", "add_generation_prompt": True},
    "parts": {"messages": [{"role": "user", "content": [{"type": "image", "image": "a.png"}, {"type": "text", "text": " What is this? "},
                                                        {"type": "video", "video": "b.mp4"}, {"type": "image_url", "image_url": {"url": "u"}}]},
                           {"role": "assistant", "content": [{"type": "text", "text": "A cat."}]}], "add_vision_id": True, "add_generation_prompt": True},
    "system_parts": {"messages": [{"role": "system", "content": [{"type": "text", "text": "See."}]}, {"role": "user", "content": [{"type": "text", "text": "Hi"}]}]},
    "no_content": {"messages": [{"role": "user"}, {"role": "assistant", "content": None}]},
    "long": {"messages": [m for i in range(6) for m in ({"role": "user", "content": f"Question {i}?\n- a\n- b"}, {"role": "assistant", "content": f"Answer {i}."})],
             "add_generation_prompt": False},
}
TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}


def render(template, variables):
    variables = json.loads(json.dumps(variables))
    messages = variables.pop("messages")
    try:
        texts, spans = reference.render_jinja_template([messages], chat_template=template, return_assistant_tokens_mask=True, **variables)
    except Exception:  # noqa: BLE001 whatever is raised is a failure to the caller
        return None
    text = texts[0]
    # Spans count characters and may reach past the text (a block inside a macro); here they are bytes inside it.
    return [text, [[len(text[:a].encode()), len(text[:b].encode())] for a, b in spans[0]]]


def write(name, head, cases):
    lines = ",\n".join(json.dumps(c, ensure_ascii=False) for c in cases)
    body = ",\n".join(f"{json.dumps(k)}: {json.dumps(v, ensure_ascii=False)}" for k, v in head.items())
    (OUT / name).write_text("{" + body + ',\n"cases": [\n' + lines + "\n]}\n")
    print(name, len(cases), "cases,", sum(c[-1] is None for c in cases), "raise,", (OUT / name).stat().st_size, "bytes")


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    constructs = (HERE / "template_constructs.txt").read_text()[:-1].split("\n---\n")
    write("constructs.json", {"variables": json.dumps(VARIABLES, ensure_ascii=False)}, [[c, render(c, VARIABLES)] for c in constructs])
    templates = {p.stem: p.read_text() for p in sorted((HERE / "chat_templates").glob("*.jinja"))}
    conversations = {k: {**TOKENS, **v} for k, v in CONVERSATIONS.items()}
    write("models.json", {"templates": templates, "conversations": {k: json.dumps(v, ensure_ascii=False) for k, v in conversations.items()}},
          [[t, c, render(text, v)] for t, text in templates.items() for c, v in conversations.items()])


main()
