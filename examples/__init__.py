"""Programs that use the API as a platform does. Nothing in `app` imports them."""
