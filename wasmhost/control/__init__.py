"""What a host answers, obeys and tells on the control and event subjects."""
