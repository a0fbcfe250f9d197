"""GRUB's configuration language: parse it, find commands in it, write it back with some words replaced."""

from onebay.boot.grubcfg.lexer import Part, Word
from onebay.boot.grubcfg.parser import Command, Config, Edit, commands, edit, functions, parse_config

__all__ = ["Command", "Config", "Edit", "Part", "Word", "commands", "edit", "functions", "parse_config"]
