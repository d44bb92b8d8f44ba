"""The host daemon, the guests it embeds, applications and the command line."""

__version__ = "0.1.0"
