"""Reading one CT or label, whatever it is stored as, after making sure that it is whole."""
