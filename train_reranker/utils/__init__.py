"""The small package that the scripts of this folder share; one concern a module."""

NAME = "rerank-forge"
__version__ = "0.2.0"
