"""Reads PowerShell with tree-sitter: functions, their param blocks, the commands they call, what they assign to."""

from __future__ import annotations

from dataclasses import dataclass

import tree_sitter
import tree_sitter_powershell


@dataclass(frozen=True)
class ParameterBlock:
    name: str
    type: str
    mandatory: bool
    values: tuple[str, ...]
    limits: tuple[str, ...]


def parse(source):
    language = tree_sitter.Language(tree_sitter_powershell.language())
    return tree_sitter.Parser(language).parse(source).root_node


def walk(node):
    yield node
    for child in node.children:
        yield from walk(child)


def find(node, *kinds):
    return [found for found in walk(node) if found.type in kinds]


def text(node):
    return node.text.decode()


def errors(root):
    return [
        (node.start_point.row + 1, text(node)[:60]) for node in walk(root) if node.type == "ERROR" or node.is_missing
    ]


def functions(root):
    return {text(find(node, "function_name")[0]): node for node in find(root, "function_statement")}


def is_advanced(function):
    block = find(function, "param_block")
    return bool(block) and any(text(name) == "CmdletBinding" for name in find(block[0], "attribute_name"))


def parameters(function):
    found = []
    for node in find(find(function, "param_block")[0], "script_parameter"):
        name = next(text(child)[1:] for child in node.children if child.type == "variable")
        literals = [child for child in find(node, "attribute") if child.children[0].type == "type_literal"]
        kind = text(literals[0]).strip("[]").replace("[]", "") + ("[]" if "[]" in text(literals[0]) else "")
        attributes = {
            text(find(child, "attribute_name")[0]): child
            for child in find(node, "attribute")
            if find(child, "attribute_name")
        }
        arguments = {
            key: tuple(text(argument).strip("'") for argument in find(child, "attribute_argument"))
            for key, child in attributes.items()
        }
        found.append(
            ParameterBlock(
                name=name,
                type=kind,
                mandatory="Mandatory = $true" in arguments.get("Parameter", ()),
                values=arguments.get("ValidateSet", ()),
                limits=arguments.get("ValidateRange", ()),
            )
        )
    return found


def emitted_objects(function):
    """The keys of each [PSCustomObject] literal in a function."""
    found = []
    for cast in find(function, "cast_expression"):
        if text(cast.children[0]) != "[PSCustomObject]":
            continue
        table = find(cast, "hash_literal_expression")[0]
        body = next(child for child in table.children if child.type == "hash_literal_body")
        found.append([text(find(entry, "key_expression")[0]) for entry in body.children if entry.type == "hash_entry"])
    return found


def called(node):
    return [text(name) for name in find(node, "command_name")]


def assigned(function):
    """Variables that are assigned to as a whole, by name without the dollar sign."""
    names = []
    for node in find(function, "left_assignment_expression"):
        whole = text(node).strip()
        if whole.startswith("$") and whole[1:].isalnum():
            names.append(whole[1:])
    return names
