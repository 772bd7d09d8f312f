"""Which CT belongs to which label where no published data set says so: by what names say."""
