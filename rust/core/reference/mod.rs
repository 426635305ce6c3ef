//! Literal scalar transcription of the searches that encoders share. Never optimised: every other path is tested against it.
