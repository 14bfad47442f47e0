"""From a document to one page of HTML."""
