"""The language model as teacher: what it is asked, over which wire, at what pace, and what it costs."""
