"""Single sign-on: people sign in at an OpenID Connect provider and get a short-lived API key."""
