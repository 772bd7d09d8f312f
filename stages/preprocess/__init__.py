"""From a folder of CTs and labels to prepared cases in the store."""
