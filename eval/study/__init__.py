"""People's judgements: a page that asks them, blinded and offline, and what their answers say."""
