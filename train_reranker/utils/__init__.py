"""The small package that the scripts of this folder share; one concern a module."""
