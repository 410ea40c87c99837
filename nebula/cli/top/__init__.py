"""`nebula top`: the windows of the web console in a terminal, now and at any past moment."""
