// Reads predictions with franz-go and hamba/avro: go run . [-once]
//
// Environment: KAFKA_BOOTSTRAP_SERVERS, TOPIC, SCHEMAS (the folder schemas/ of Leadstream), SCHEMA_REGISTRY_URL if there
// is one. Prints "lead id<tab>probability<tab>grade", or "lead id<tab>erased".
package main

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"strings"

	"github.com/hamba/avro/v2"
	"github.com/hamba/avro/v2/soe"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sr"
)

// Prediction has the fields that are wanted; the others are skipped.
type Prediction struct {
	LeadID      string  `avro:"lead_id"`
	Probability float64 `avro:"probability"`
	Grade       string  `avro:"grade"`
}

type decoder struct {
	present  avro.Schema
	writers  map[string]avro.Schema // by the fingerprint in the header of a single object
	byID     map[int]avro.Schema
	registry *sr.Client
}

func newDecoder(schemas string) (*decoder, error) {
	present, err := parse(filepath.Join(schemas, "lead_prediction.avsc"))
	if err != nil {
		return nil, err
	}
	d := &decoder{present: present, writers: map[string]avro.Schema{}, byID: map[int]avro.Schema{}}
	released, _ := filepath.Glob(filepath.Join(schemas, "released", "*", "lead_prediction.avsc"))
	for _, path := range append(released, filepath.Join(schemas, "lead_prediction.avsc")) {
		written, err := parse(path)
		if err != nil {
			return nil, err
		}
		fingerprint, err := soe.ComputeFingerprint(written)
		if err != nil {
			return nil, err
		}
		if d.writers[string(fingerprint)], err = d.resolved(written); err != nil {
			return nil, err
		}
	}
	if url := os.Getenv("SCHEMA_REGISTRY_URL"); url != "" {
		d.registry, err = sr.NewClient(sr.URLs(url))
	}
	return d, err
}

func parse(path string) (avro.Schema, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var schema any
	if err := json.Unmarshal(text, &schema); err != nil {
		return nil, err
	}
	plain, err := json.Marshal(withoutLogicalTypes(schema))
	if err != nil {
		return nil, err
	}
	return avro.ParseBytesWithCache(plain, "", &avro.SchemaCache{})
}

// withoutLogicalTypes: they are no part of Avro's canonical form, but of hamba/avro's, whose fingerprints would differ.
func withoutLogicalTypes(schema any) any {
	switch part := schema.(type) {
	case map[string]any:
		delete(part, "logicalType")
		for name, inner := range part {
			part[name] = withoutLogicalTypes(inner)
		}
	case []any:
		for i, inner := range part {
			part[i] = withoutLogicalTypes(inner)
		}
	}
	return schema
}

// resolved reads what was written by one schema as the present one: newer fields are skipped, older ones get defaults.
func (d *decoder) resolved(written avro.Schema) (avro.Schema, error) {
	return avro.NewSchemaCompatibility().Resolve(d.present, written)
}

// decode one prediction, in either framing.
func (d *decoder) decode(ctx context.Context, value []byte) (prediction Prediction, err error) {
	switch {
	case len(value) > 10 && value[0] == 0xc3 && value[1] == 0x01: // Avro single object: fingerprint, 8 bytes
		schema, known := d.writers[string(value[2:10])]
		if !known {
			return prediction, errors.New("written by a schema that is not in the folder of schemas: update it")
		}
		return prediction, avro.Unmarshal(schema, value[10:], &prediction)
	case len(value) > 5 && value[0] == 0: // Confluent: the id of the writer's schema in the registry, 4 bytes
		id := int(binary.BigEndian.Uint32(value[1:5]))
		if _, known := d.byID[id]; !known {
			registered, err := d.registry.SchemaByID(ctx, id)
			if err != nil {
				return prediction, err
			}
			written, err := avro.ParseWithCache(registered.Schema, "", &avro.SchemaCache{})
			if err != nil {
				return prediction, err
			}
			if d.byID[id], err = d.resolved(written); err != nil {
				return prediction, err
			}
		}
		return prediction, avro.Unmarshal(d.byID[id], value[5:], &prediction)
	}
	return prediction, errors.New("neither of the two framings")
}

func run(once bool) error {
	ctx := context.Background()
	topic := env("TOPIC", "crm.lead-predictions")
	decoder, err := newDecoder(env("SCHEMAS", "../../schemas"))
	if err != nil {
		return err
	}
	client, err := kgo.NewClient(
		kgo.SeedBrokers(strings.Split(os.Getenv("KAFKA_BOOTSTRAP_SERVERS"), ",")...),
		// A table of all scores starts from the beginning each time; a service has a kgo.ConsumerGroup.
		kgo.ConsumeTopics(topic),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		// franz-go reads what may yet be aborted unless it is told not to.
		kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		// Marks of transactions are no messages, but they tell how far was read.
		kgo.KeepControlRecords(),
	)
	if err != nil {
		return err
	}
	defer client.Close()
	unread, err := ends(ctx, client, topic)
	if err != nil {
		return err
	}
	for len(unread) > 0 || !once {
		fetches := client.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			return err
		}
		for _, record := range fetches.Records() {
			if record.Offset+1 >= unread[record.Partition] {
				delete(unread, record.Partition)
			}
			switch {
			case record.Attrs.IsControl():
			case record.Value == nil:
				fmt.Printf("%s\terased\n", record.Key)
			default:
				prediction, err := decoder.decode(ctx, record.Value)
				if err != nil {
					return err
				}
				fmt.Printf("%s\t%.3f\t%s\n", prediction.LeadID, prediction.Probability, prediction.Grade)
			}
		}
	}
	return nil
}

// ends are those of the partitions that hold something.
func ends(ctx context.Context, client *kgo.Client, topic string) (map[int32]int64, error) {
	admin := kadm.NewClient(client)
	starts, err := admin.ListStartOffsets(ctx, topic)
	if err != nil {
		return nil, err
	}
	listed, err := admin.ListEndOffsets(ctx, topic)
	unread := map[int32]int64{}
	listed.Each(func(end kadm.ListedOffset) {
		if start, known := starts.Lookup(topic, end.Partition); known && start.Offset < end.Offset {
			unread[end.Partition] = end.Offset
		}
	})
	return unread, err
}

func env(name, otherwise string) string {
	if value := os.Getenv(name); value != "" {
		return value
	}
	return otherwise
}

func main() {
	once := flag.Bool("once", false, "stop at the present end")
	flag.Parse()
	if err := run(*once); err != nil {
		log.Fatal(err)
	}
}
