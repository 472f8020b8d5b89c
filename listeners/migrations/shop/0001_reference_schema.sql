-- The reference shop: vendors, products, locations and their inventory.
CREATE TABLE public.vendors (
    vendor_id text PRIMARY KEY CHECK (vendor_id ~ '^[A-Za-z0-9._-]{1,64}$'),
    name text NOT NULL,
    status text NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'suspended')),
    created_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE public.products (
    product_id text PRIMARY KEY CHECK (product_id ~ '^[A-Za-z0-9._-]{1,64}$'),
    vendor_id text NOT NULL REFERENCES public.vendors,
    sku text NOT NULL DEFAULT '',
    name text NOT NULL,
    category text NOT NULL DEFAULT '',
    price_minor bigint NOT NULL DEFAULT 0 CHECK (price_minor >= 0),
    currency text NOT NULL DEFAULT 'USD' CHECK (currency ~ '^[A-Z]{3}$'),
    status text NOT NULL DEFAULT 'published' CHECK (status IN ('draft', 'published', 'archived')),
    version bigint NOT NULL DEFAULT 0,
    updated_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (product_id, vendor_id)
) WITH (fillfactor = 80);
COMMENT ON COLUMN public.products.version IS 'inventory-gateway: stamped by the gateway''s trigger';
CREATE INDEX products_vendor_idx ON public.products (vendor_id);
CREATE INDEX products_published_idx ON public.products (vendor_id, status) WHERE status = 'published';

CREATE TABLE public.locations (
    location_id text PRIMARY KEY CHECK (location_id ~ '^[A-Za-z0-9._-]{1,64}$'),
    vendor_id text NOT NULL REFERENCES public.vendors,
    name text NOT NULL,
    kind text NOT NULL DEFAULT 'store' CHECK (kind IN ('store', 'warehouse', 'virtual')),
    timezone text NOT NULL DEFAULT 'UTC',
    active boolean NOT NULL DEFAULT true,
    UNIQUE (location_id, vendor_id)
);
CREATE INDEX locations_vendor_idx ON public.locations (vendor_id);

-- The foreign keys carry the vendor along, so that a row between two vendors can not exist.
-- available is STORED: a virtual column is null in a trigger's transition table.
-- fillfactor 80 leaves room for HOT updates; no index covers a quantity, so that they stay HOT.
CREATE TABLE public.inventory (
    product_id text NOT NULL,
    location_id text NOT NULL,
    vendor_id text NOT NULL,
    on_hand integer NOT NULL DEFAULT 0 CHECK (on_hand >= 0),
    reserved integer NOT NULL DEFAULT 0 CHECK (reserved >= 0),
    damaged integer NOT NULL DEFAULT 0 CHECK (damaged >= 0),
    safety_stock integer NOT NULL DEFAULT 0 CHECK (safety_stock >= 0),
    incoming integer NOT NULL DEFAULT 0 CHECK (incoming >= 0),
    available integer NOT NULL GENERATED ALWAYS AS (on_hand - reserved - damaged - safety_stock) STORED,
    low_stock_at integer DEFAULT NULL CHECK (low_stock_at >= 0),
    version bigint NOT NULL DEFAULT 0,
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (product_id, location_id),
    FOREIGN KEY (product_id, vendor_id) REFERENCES public.products (product_id, vendor_id)
        ON UPDATE CASCADE ON DELETE CASCADE,
    FOREIGN KEY (location_id, vendor_id) REFERENCES public.locations (location_id, vendor_id)
        ON UPDATE CASCADE ON DELETE CASCADE,
    CHECK (reserved + damaged <= on_hand)
) WITH (fillfactor = 80);
COMMENT ON COLUMN public.inventory.version IS 'inventory-gateway: stamped by the gateway''s trigger';
CREATE INDEX inventory_location_idx ON public.inventory (location_id);
CREATE INDEX inventory_vendor_idx ON public.inventory (vendor_id);
