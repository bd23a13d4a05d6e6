"""The books, played at random against a plain model of them."""
