"""API of top-ups: buying credits, receipts, refunds, disputes and auto top-up."""
