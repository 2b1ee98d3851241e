"""The Didomi API: session, consent records, batch exports. It knows nothing of Actito."""
