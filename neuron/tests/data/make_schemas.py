"""Schemas that structured output is tested with: `schemas.json`, those that are enforced and those that are refused.

The shapes are those that JSON Schema's own test suite goes through, keyword by keyword, each alone and several
together, and what clients send: nested objects, recursive trees, unions with a tag, closed objects with optional
fields. Run it in this folder after a change; no package is needed.
"""

import itertools
import json

S, I, N, B, Z = ({"type": t} for t in ("string", "integer", "number", "boolean", "null"))
short = {"type": "string", "maxLength": 12}


def obj(properties, required=None, extra=False, **more):
    schema = {"type": "object", "properties": properties, "additionalProperties": extra}
    schema["required"] = list(properties) if required is None else required
    return schema | more


def arr(items, low=0, high=4, **more):
    return {"type": "array", "items": items, "minItems": low, "maxItems": high} | more


good = []
add = good.append

# Types alone and in lists of types.
for t in (short, I, N, B, Z):
    add(t)
for pair in itertools.combinations(("integer", "boolean", "null", "number"), 2):
    add({"type": list(pair)})
add({"type": ["string", "null"], "maxLength": 5})
# enum and const, of every type.
for values in (["a"], ["a", "b c", "d\"e"], [1, 2.5, -3], [True, None], ["ü", "日本", "\n"], [{"a": 1}, [1, 2]], [0, "0", False]):
    add({"enum": values})
for value in ("x", 7, -0.5, True, None, {"a": [1]}, []):
    add({"const": value})
# Numbers.
for low, high in ((0, 9), (-5, 5), (1, 1), (100, 250), (-1000, -990), (0, 1_000_000)):
    add({"type": "integer", "minimum": low, "maximum": high})
    add({"type": "integer", "exclusiveMinimum": low - 1, "exclusiveMaximum": high + 1})
for low, high in ((0, 1), (-0.5, 0.5), (1.25, 9.75)):
    add({"type": "number", "minimum": low, "maximum": high})
    add({"type": "number", "exclusiveMinimum": low, "exclusiveMaximum": high})
for step in (2, 5, 10):
    add({"type": "integer", "multipleOf": step, "minimum": 0, "maximum": 100})
# Strings.
for low, high in ((0, 3), (2, 2), (1, 10), (5, 20)):
    add({"type": "string", "minLength": low, "maxLength": high})
for pattern in (r"^[a-z]{3}$", r"^\d{4}-\d{2}$", r"^(yes|no)$", r"^[A-Z][a-z]{1,6} [A-Z]\.$", r"^a.b$", r"^\w{1,8}$", r"^[^\s]{2,5}$", r"^(ab){1,3}c?$"):
    add({"type": "string", "pattern": pattern})
for f in ("date", "time", "date-time", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri"):
    add({"type": "string", "format": f} | ({"maxLength": 40} if f in ("email", "hostname", "uri") else {}))
# Arrays.
for items in (I, B, short, {"enum": ["x", "y"]}, arr(B, 1, 2), obj({"a": I})):
    add(arr(items, 0, 3))
    add(arr(items, 2, 2))
add({"type": "array", "prefixItems": [I, B], "items": False, "minItems": 2})
add({"type": "array", "prefixItems": [I], "items": B, "minItems": 1, "maxItems": 3})
add({"type": "array", "prefixItems": [short, I, Z], "minItems": 3, "maxItems": 3})
# Objects: required, optional, closed, open, by pattern.
names = ["a", "b c", "d-e", "ü", "$ref!", "type", "0"]
for n in range(1, len(names) + 1):
    add(obj({name: I for name in names[:n]}))
for required in ([], ["x"], ["y"], ["x", "z"], ["z"]):
    add(obj({"x": I, "y": B, "z": Z}, required))
for extra in (I, B, {"type": "string", "maxLength": 3}):
    add(obj({"k": B}, extra=extra, maxProperties=3) if False else obj({"k": B}, extra=extra))
add({"type": "object", "patternProperties": {"^x_[a-z]$": I}, "additionalProperties": False})
add({"type": "object", "properties": {"n": I}, "patternProperties": {"^[a-c]$": B}, "additionalProperties": False, "required": ["n"]})
add({"type": "object", "properties": {"deep": obj({"deeper": obj({"deepest": arr(I, 1, 2)})})}, "required": ["deep"], "additionalProperties": False})
add({"properties": {"a": I}, "required": ["a"], "type": "object", "additionalProperties": False, "title": "T", "description": "d", "default": {}, "examples": [1], "$comment": "c", "deprecated": True, "readOnly": True})
# Combined.
for a, b in itertools.combinations((I, B, Z, {"type": "string", "maxLength": 4}, arr(I, 0, 2), obj({"q": I})), 2):
    add({"anyOf": [a, b]})
for a, b in (({"minimum": 1}, {"maximum": 5}), ({"multipleOf": 2}, {"minimum": 4, "maximum": 8})):
    add({"type": "integer", "allOf": [a, b]})
add({"allOf": [{"type": "string", "minLength": 2}, {"type": "string", "maxLength": 4}]})
add({"allOf": [{"type": "object", "properties": {"a": I}, "required": ["a"]}, {"type": "object", "properties": {"b": B}, "required": ["b"]}], "additionalProperties": False, "properties": {"a": {}, "b": {}}, "type": "object"})
add({"oneOf": [obj({"kind": {"const": "a"}, "n": I}), obj({"kind": {"const": "b"}, "s": short})]})
add({"oneOf": [I, {"type": "string", "maxLength": 3}]})
# References.
add({"$defs": {"n": I}, "$ref": "#/$defs/n"})
add({"definitions": {"n": B}, "type": "array", "items": {"$ref": "#/definitions/n"}, "maxItems": 3})
add({"$defs": {"p": obj({"x": I, "y": I})}} | obj({"from": {"$ref": "#/$defs/p"}, "to": {"$ref": "#/$defs/p"}}))
add({"$defs": {"node": obj({"v": I, "next": {"anyOf": [{"$ref": "#/$defs/node"}, Z]}})}, "$ref": "#/$defs/node"})
add({"$defs": {"tree": obj({"v": B, "kids": arr({"$ref": "#/$defs/tree"}, 0, 2)})}, "$ref": "#/$defs/tree"})
add({"type": "object", "properties": {"a/b": I, "c~d": {"$ref": "#/properties/a~1b"}}, "required": ["a/b", "c~d"], "additionalProperties": False})
# What clients send.
address = obj({"street": short, "zip": {"type": "string", "pattern": "^[0-9]{5}$"}, "country": {"enum": ["DE", "FR", "IT"]}})
add(obj({"name": short, "age": {"type": "integer", "minimum": 0, "maximum": 130}, "address": address}))
add(obj({"steps": arr(obj({"explanation": short, "output": short}), 1, 3), "final_answer": short}))
add(obj({"title": short, "tags": arr(short, 0, 3), "rating": {"type": "number", "minimum": 0, "maximum": 5}, "published": B}))
add(obj({"action": {"anyOf": [obj({"type": {"const": "click"}, "x": I, "y": I}), obj({"type": {"const": "type"}, "text": short}), obj({"type": {"const": "wait"}})]}}))
add(obj({"from": {"type": "string", "format": "date"}, "to": {"type": ["string", "null"], "format": "date"}, "guests": {"type": "integer", "minimum": 1, "maximum": 9}}))
add(obj({"matrix": arr(arr(I, 2, 2), 2, 2)}))
add(obj({"a": {"type": ["integer", "null"]}, "b": {"type": ["boolean", "null"]}, "c": {"type": ["string", "null"], "maxLength": 3}}))
for n in (10, 20):
    add(obj({f"field_{i}": B for i in range(n)}))
add(obj({f"field_{i}": B for i in range(12)}, required=["field_3", "field_11"]))
add({"type": "array", "items": obj({"id": {"type": "string", "format": "uuid"}, "n": I}), "minItems": 1, "maxItems": 2})
# Every keyword beside an optional neighbour: what is left out must leave no comma behind.
for extra in list(good[:60]):
    if len(good) >= 210:
        break
    add(obj({"before": B, "value": extra, "after": Z}, required=["value"]))

refused = [
    ["not", {"type": "object", "not": {"required": ["a"]}}],
    ["if", {"type": "object", "if": {"required": ["a"]}, "then": {"required": ["b"]}}],
    ["uniqueItems", {"type": "array", "items": I, "uniqueItems": True}],
    ["contains", {"type": "array", "contains": I}],
    ["dependentRequired", {"type": "object", "dependentRequired": {"a": ["b"]}}],
    ["propertyNames", {"type": "object", "propertyNames": {"pattern": "^a"}}],
    ["unevaluatedProperties", {"type": "object", "unevaluatedProperties": False}],
    ["oneOf", {"oneOf": [{"type": "integer", "minimum": 0}, {"type": "integer", "maximum": 10}]}],
    ["format", {"type": "string", "format": "no-such-format"}],
    ["text", {"type": "text"}],
    ["/$defs/none", {"$ref": "#/$defs/none"}],
    ["https://", {"$ref": "https://example.com/schema.json"}],
    ["minimum", {"type": "integer", "minimum": "1"}],
    ["properties", {"type": "object", "properties": []}],
    ["required", {"type": "object", "required": "a"}],
    ["enum", {"enum": "a"}],
    ["regex", {"type": "string", "pattern": "("}],
    ["nsatisfiable", {"type": "integer", "minimum": 5, "maximum": 4}],
    ["nsatisfiable", {"enum": []}],
    ["nsatisfiable", {"type": "string", "minLength": 5, "maxLength": 4}],
    ["nsatisfiable", {"allOf": [I, S]}],
    ["nsatisfiable", {"type": "object", "properties": {"a": False}, "required": ["a"]}],
]

with open("schemas.json", "w") as out:
    lines = lambda rows: ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    out.write('{"enforced": [\n' + lines(good) + '\n], "refused": [\n' + lines(refused) + "\n]}\n")
print(len(good), "enforced,", len(refused), "refused")
