"""Questions put to the techniques: each file turns settings into plain records."""
