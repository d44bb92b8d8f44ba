"""The actors of one host: started, scaled, updated, stopped, and what is known about each."""
