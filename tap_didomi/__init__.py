"""Singer tap for Didomi: consent events and consent users, from batch exports or the API."""
