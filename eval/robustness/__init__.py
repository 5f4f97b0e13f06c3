"""Does TAVID hold up: worse portraits, other speakers, prosody under another's voice,
long dialogues in pieces?"""
